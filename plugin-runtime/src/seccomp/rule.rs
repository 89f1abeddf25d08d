//! The rule of one call, as it stands behind the colon.
//!
//! ```text
//! rule       = "1" | return | condition [";" return]
//! return     = "return" ERRNO
//! condition  = all {"||" all}
//! all        = comparison {"&&" comparison}
//! comparison = ("arg0" | .. | "arg5") operator constant
//! operator   = "==" | "!=" | "<" | "<=" | ">" | ">=" | "&" | "in"
//! constant   = term {"|" term}
//! term       = NUMBER | "-" NUMBER | NAME | "~" term | "(" constant ")"
//! ```

use syscalls::Errno;

use super::constants;
use super::policy::{Comparison, MAX_ERRNO, Operator, Otherwise, Rule};

/// Reads a rule. What is wrong with it is told in words that name the token.
pub(super) fn parse(text: &str) -> Result<Rule, String> {
    let mut tokens = Tokens { rest: text.trim_start() };
    let rule = match tokens.peek() {
        "1" => {
            tokens.next();
            Rule { allowed: vec![vec![]], otherwise: Otherwise::Violation }
        }
        "return" => Rule { allowed: vec![], otherwise: parse_return(&mut tokens)? },
        _ => {
            let allowed = condition(&mut tokens)?;
            let otherwise = if tokens.take(";") { parse_return(&mut tokens)? } else { Otherwise::Violation };
            Rule { allowed, otherwise }
        }
    };
    match tokens.next() {
        "" => Ok(rule),
        token => Err(format!("{} is more than a rule", quoted(token))),
    }
}

fn parse_return(tokens: &mut Tokens<'_>) -> Result<Otherwise, String> {
    match tokens.next() {
        "return" => {}
        token => return Err(format!("{} stands where `return` is expected", quoted(token))),
    }
    let token = tokens.next();
    // Two numbers have a second name each.
    let name = match token {
        "ENOTSUP" => "EOPNOTSUPP",
        "EWOULDBLOCK" => "EAGAIN",
        other => other,
    };
    let by_name = || (1..=MAX_ERRNO).find(|&errno| Errno::new(errno.into()).name() == Some(name));
    let errno = number(token).and_then(|number| u16::try_from(number).ok()).or_else(by_name);
    match errno {
        Some(errno @ 1..=MAX_ERRNO) => Ok(Otherwise::Errno(errno)),
        _ => Err(format!("{} is no error number", quoted(token))),
    }
}

fn condition(tokens: &mut Tokens<'_>) -> Result<Vec<Vec<Comparison>>, String> {
    let mut any_of = vec![all(tokens)?];
    while tokens.take("||") {
        any_of.push(all(tokens)?);
    }
    Ok(any_of)
}

fn all(tokens: &mut Tokens<'_>) -> Result<Vec<Comparison>, String> {
    let mut all_of = vec![comparison(tokens)?];
    while tokens.take("&&") {
        all_of.push(comparison(tokens)?);
    }
    Ok(all_of)
}

fn comparison(tokens: &mut Tokens<'_>) -> Result<Comparison, String> {
    let argument = match tokens.next() {
        "arg0" => 0,
        "arg1" => 1,
        "arg2" => 2,
        "arg3" => 3,
        "arg4" => 4,
        "arg5" => 5,
        token => return Err(format!("{} stands where an argument, arg0 to arg5, is expected", quoted(token))),
    };
    let operator = match tokens.next() {
        "==" => Operator::Equal,
        "!=" => Operator::NotEqual,
        "<" => Operator::Less,
        "<=" => Operator::LessOrEqual,
        ">" => Operator::Greater,
        ">=" => Operator::GreaterOrEqual,
        "&" => Operator::AnyBit,
        "in" => Operator::NoOtherBit,
        token => return Err(format!("{} is no comparison", quoted(token))),
    };
    Ok(Comparison { argument, operator, constant: constant(tokens, 0)? })
}

/// How deep parentheses and complements may nest: as deep as anybody writes, and no deeper than the stack allows.
const MAX_DEPTH: usize = 16;

fn constant(tokens: &mut Tokens<'_>, depth: usize) -> Result<u64, String> {
    let mut bits = term(tokens, depth)?;
    while tokens.take("|") {
        bits |= term(tokens, depth)?;
    }
    Ok(bits)
}

fn term(tokens: &mut Tokens<'_>, depth: usize) -> Result<u64, String> {
    let token = tokens.next();
    if depth > MAX_DEPTH {
        return Err(format!("{} is nested too deep", quoted(token)));
    }
    match token {
        "~" => Ok(!term(tokens, depth + 1)?),
        "(" => {
            let inner = constant(tokens, depth + 1)?;
            match tokens.next() {
                ")" => Ok(inner),
                token => Err(format!("{} stands where `)` is expected", quoted(token))),
            }
        }
        "-" => {
            let token = tokens.next();
            number(token).map(u64::wrapping_neg).ok_or_else(|| format!("{} is no number", quoted(token)))
        }
        _ => number(token)
            .or_else(|| constants::by_name(token))
            .ok_or_else(|| format!("{} is neither a number nor a known constant", quoted(token))),
    }
}

/// Decimal, hexadecimal after `0x`, or octal after `0`.
fn number(token: &str) -> Option<u64> {
    if !token.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (digits, radix) = match token.strip_prefix("0x").or_else(|| token.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if token.len() > 1 && token.starts_with('0') => (&token[1..], 8),
        None => (token, 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

/// The token for an error's text.
fn quoted(token: &str) -> String {
    if token.is_empty() { "the line's end".into() } else { format!("`{token}`") }
}

/// The tokens of a rule: words, operators, and an empty one at the end.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> &'a str {
        const TWO_CHARACTERS: [&str; 6] = ["==", "!=", "<=", ">=", "&&", "||"];
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        let end = if self.rest.starts_with(is_word) {
            self.rest.find(|character| !is_word(character)).unwrap_or(self.rest.len())
        } else if TWO_CHARACTERS.iter().any(|operator| self.rest.starts_with(operator)) {
            2
        } else {
            self.rest.chars().next().map_or(0, char::len_utf8)
        };
        &self.rest[..end]
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.rest = self.rest[token.len()..].trim_start();
        token
    }

    /// Takes the next token if it is `wanted`.
    fn take(&mut self, wanted: &str) -> bool {
        let found = self.peek() == wanted;
        if found {
            self.next();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(argument: u8, operator: Operator, constant: u64) -> Comparison {
        Comparison { argument, operator, constant }
    }

    fn allowed(text: &str) -> Vec<Vec<Comparison>> {
        let rule = parse(text).unwrap();
        assert_eq!(rule.otherwise, Otherwise::Violation);
        rule.allowed
    }

    #[test]
    fn one_allows_always_and_a_return_never() {
        assert_eq!(parse(" 1 ").unwrap(), Rule::always());
        let refused = |errno| Rule { allowed: vec![], otherwise: Otherwise::Errno(errno) };
        assert_eq!(parse("return EPERM").unwrap(), refused(1));
        assert_eq!(parse("return ENOTSUP").unwrap(), refused(95));
        assert_eq!(parse("return 38").unwrap(), refused(38));
        assert_eq!(parse("return 0x26").unwrap(), refused(38));
    }

    #[test]
    fn and_binds_tighter_than_or() {
        let [a, b, c] = [0, 1, 2].map(|argument| comparison(argument, Operator::Equal, argument.into()));
        assert_eq!(allowed("arg0 == 0 && arg1 == 1 || arg2 == 2"), [vec![a, b], vec![c]]);
        assert_eq!(allowed("arg0==0||arg1==1&&arg2==2"), [vec![a], vec![b, c]]);
    }

    #[test]
    fn every_comparison_is_told_from_the_others() {
        for (text, operator) in [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<", Operator::Less),
            ("<=", Operator::LessOrEqual),
            (">", Operator::Greater),
            (">=", Operator::GreaterOrEqual),
            ("&", Operator::AnyBit),
            ("in", Operator::NoOtherBit),
        ] {
            assert_eq!(allowed(&format!("arg5 {text} 7")), [[comparison(5, operator, 7)]]);
        }
    }

    #[test]
    fn constants_are_numbers_names_and_what_is_made_of_them() {
        let constant = |text: &str| allowed(&format!("arg1 == {text}"))[0][0].constant;
        assert_eq!([constant("10"), constant("0x10"), constant("010"), constant("0")], [10, 16, 8, 0]);
        assert_eq!(constant("18446744073709551615"), u64::MAX);
        assert_eq!(constant("-1"), u64::MAX);
        assert_eq!(constant("PROT_READ|PROT_WRITE | 8"), 11);
        assert_eq!(constant("~PROT_EXEC"), !4);
        assert_eq!(constant("~(PROT_READ|PROT_EXEC)"), !5);
        assert_eq!(constant("~PROT_READ|1"), u64::MAX);
        assert_eq!(constant("TCGETS"), 0x5401);
        assert_eq!(constant("CLONE_NEWUSER"), 0x1000_0000);
    }

    #[test]
    fn a_condition_may_return_an_error_otherwise() {
        let rule = parse("arg0 == 1; return EINVAL").unwrap();
        let one = comparison(0, Operator::Equal, 1);
        assert_eq!(rule, Rule { allowed: vec![vec![one]], otherwise: Otherwise::Errno(22) });
    }

    #[test]
    fn what_is_wrong_is_named_with_its_token() {
        for (text, what) in [
            ("", "the line's end stands where an argument, arg0 to arg5, is expected"),
            ("2", "`2` stands where an argument, arg0 to arg5, is expected"),
            ("arg6 == 1", "`arg6` stands where an argument, arg0 to arg5, is expected"),
            ("allow", "`allow` stands where an argument, arg0 to arg5, is expected"),
            ("arg0 = 1", "`=` is no comparison"),
            ("arg0", "the line's end is no comparison"),
            ("arg0 == ", "the line's end is neither a number nor a known constant"),
            ("arg0 == O_NOTHING", "`O_NOTHING` is neither a number nor a known constant"),
            ("arg0 == 0xg", "`0xg` is neither a number nor a known constant"),
            ("arg0 == 08", "`08` is neither a number nor a known constant"),
            ("arg0 == 18446744073709551616", "`18446744073709551616` is neither a number nor a known constant"),
            ("arg0 == -x", "`x` is no number"),
            ("arg0 == (1", "the line's end stands where `)` is expected"),
            ("arg0 == 1 arg1 == 2", "`arg1` is more than a rule"),
            ("arg0 == 1 && ", "the line's end stands where an argument, arg0 to arg5, is expected"),
            ("arg0 == 1 || |", "`|` stands where an argument, arg0 to arg5, is expected"),
            ("arg0 == 1; 1", "`1` stands where `return` is expected"),
            ("arg0 == 1;", "the line's end stands where `return` is expected"),
            ("1; return EPERM", "`;` is more than a rule"),
            ("return", "the line's end is no error number"),
            ("return EWHAT", "`EWHAT` is no error number"),
            ("return 0", "`0` is no error number"),
            ("return 4096", "`4096` is no error number"),
            ("return EPERM EPERM", "`EPERM` is more than a rule"),
            ("arg0 == ü", "`ü` is neither a number nor a known constant"),
            ("arg0 == €", "`€` is neither a number nor a known constant"),
        ] {
            assert_eq!(parse(text).unwrap_err(), what, "{text:?}");
        }
        assert_eq!(parse(&format!("arg0 == {}1", "~".repeat(1_000_000))).unwrap_err(), "`~` is nested too deep");
    }
}
