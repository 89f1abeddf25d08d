//! Policy files: one rule a line, by the call's name.

use std::path::{Path, PathBuf};

use syscalls::Sysno;

use super::policy::Policy;
use super::rule;
use crate::error::{Error, Result};
use crate::text_file::read_text;

/// How deep files may include each other.
const MAX_DEPTH: usize = 8;

impl Policy {
    /// Reads the policy that is `text`, called `name` in errors. No file is opened for it: it lies in none, so an `@include`
    /// has no directory to begin at, and is an error.
    pub(super) fn from_text(name: &Path, text: &str) -> Result<Self> {
        let mut reader = Reader { policy: Self::default(), open: Vec::new() };
        reader.read_text(name, text)?;
        Ok(reader.policy)
    }

    /// Reads the policy in the file at `path`, and in those it includes.
    pub(super) fn from_file(path: &Path) -> Result<Self> {
        let mut reader = Reader { policy: Self::default(), open: Vec::new() };
        let text = read_text(path).map_err(Error::reading_policy(path))?;
        reader.open.push(path.to_owned());
        reader.read_text(path, &text)?;
        Ok(reader.policy)
    }
}

struct Reader {
    policy: Policy,
    /// The file being read, last, and those that include it; empty where a text is read that lies in no file.
    open: Vec<PathBuf>,
}

impl Reader {
    fn read_text(&mut self, file: &Path, text: &str) -> Result<()> {
        for (number, line) in logical_lines(text) {
            self.read_line(file, &line).map_err(|wrong| match wrong {
                Wrong::Here(what) => Error::Policy { file: file.to_owned(), line: number, what },
                Wrong::Included(error) => error,
            })?;
        }
        Ok(())
    }

    fn read_line(&mut self, file: &Path, line: &str) -> std::result::Result<(), Wrong> {
        if let Some(directive) = line.strip_prefix('@') {
            return self.follow(file, directive);
        }
        let Some((name, rule)) = line.split_once(':') else {
            return Err(Wrong::Here(format!("`{line}` has no colon behind a system call's name")));
        };
        let name = name.trim_end();
        let Ok(call) = name.parse::<Sysno>() else {
            return Err(Wrong::Here(format!("no system call is called `{name}`")));
        };
        let rule = rule::parse(rule).map_err(Wrong::Here)?;
        match self.policy.rules.insert(call, rule) {
            None => Ok(()),
            Some(_) => Err(Wrong::Here(format!("`{name}` has a rule already"))),
        }
    }

    fn follow(&mut self, file: &Path, directive: &str) -> std::result::Result<(), Wrong> {
        let (word, rest) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
        match word {
            "include" => self.include(file, rest.trim()),
            // How often each call is made, by which others order the calls.
            "frequency" => Ok(()),
            _ => Err(Wrong::Here(format!("no directive is called `@{word}`"))),
        }
    }

    fn include(&mut self, file: &Path, named: &str) -> std::result::Result<(), Wrong> {
        if named.is_empty() {
            return Err(Wrong::Here("`@include` names no file".into()));
        }
        if self.open.is_empty() {
            return Err(Wrong::Here(format!("`{named}` cannot be included: this policy lies in no file")));
        }
        let path = file.parent().unwrap_or(Path::new("")).join(named);
        if self.open.len() >= MAX_DEPTH {
            return Err(Wrong::Here(format!("`{named}` would be included more than {MAX_DEPTH} files deep")));
        }
        let real = path.canonicalize().map_err(cannot_read(named))?;
        if self.open.iter().any(|open| open.canonicalize().is_ok_and(|open| open == real)) {
            return Err(Wrong::Here(format!("`{named}` includes itself")));
        }
        let text = read_text(&path).map_err(cannot_read(named))?;
        self.open.push(path.clone());
        self.read_text(&path, &text).map_err(Wrong::Included)?;
        self.open.pop();
        Ok(())
    }
}

/// What is wrong with a line, or with a file it includes.
enum Wrong {
    Here(String),
    Included(Error),
}

fn cannot_read(named: &str) -> impl FnOnce(std::io::Error) -> Wrong {
    move |error| Wrong::Here(format!("`{named}` cannot be read: {error}"))
}

/// The lines that say something, without their comments, each with the number of its first: a backslash at a line's end
/// joins the next one to it.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let (line, goes_on) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        let (_, whole) = joined.get_or_insert_with(|| (index + 1, String::new()));
        whole.push_str(line);
        whole.push(' ');
        if !goes_on {
            lines.extend(joined.take());
        }
    }
    lines.extend(joined);
    lines.retain_mut(|(_, line)| {
        *line = line.trim().to_owned();
        !line.is_empty()
    });
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::policy::Rule;
    use super::*;

    fn names(policy: &Policy) -> Vec<&'static str> {
        policy.rules.keys().map(|call| call.name()).collect()
    }

    fn parse(text: &str) -> std::result::Result<Policy, String> {
        Policy::from_text(Path::new("p"), text).map_err(|error| error.to_string())
    }

    /// Reads `main` in a directory of these files.
    fn parse_files(files: &[(&str, &str)]) -> std::result::Result<Policy, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let prefix = format!("{}/", directory.path().display());
        Policy::from_file(&directory.path().join("main")).map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[test]
    fn comments_blank_lines_and_spaces_say_nothing() {
        let policy = parse("# a comment\n\n  read : 1  # why\nwrite:1\r\n@frequency ./file\n").unwrap();
        assert_eq!(names(&policy), ["read", "write"]);
        assert!(policy.rules.values().all(|rule| *rule == Rule::always()));
    }

    #[test]
    fn a_backslash_joins_lines_and_errors_name_the_first() {
        assert_eq!(parse("ioctl: arg1 == 1 \\\n || arg1 == 2\nread: 1").unwrap().rules.len(), 2);
        assert_eq!(
            parse("read: 1\nioctl: arg1 == 1 \\\n || arg1 ~ 2\n").unwrap_err(),
            "p, line 2: `~` is no comparison"
        );
        assert_eq!(parse("read: \\").unwrap_err().split(": ").next(), Some("p, line 1"));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_token() {
        for (text, error) in [
            ("read: 1\nreed: 1", "p, line 2: no system call is called `reed`"),
            ("\n\nread 1", "p, line 3: `read 1` has no colon behind a system call's name"),
            ("read: 1\nwrite: 1\nread: 1", "p, line 3: `read` has a rule already"),
            ("read: arg0 >< 1", "p, line 1: `<` is neither a number nor a known constant"),
            ("@denylist", "p, line 1: no directive is called `@denylist`"),
            ("@include", "p, line 1: `@include` names no file"),
            (": 1", "p, line 1: no system call is called ``"),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn a_text_without_a_file_includes_nothing_and_says_so() {
        // Tests run in the crate's directory, and this file is there.
        let there = Path::new("src/seccomp/plugin.policy");
        assert!(there.exists());
        for named in [there.to_owned(), there.canonicalize().unwrap()] {
            let error = parse(&format!("read: 1\n@include {}", named.display())).unwrap_err();
            let expected = format!("p, line 2: `{}` cannot be included: this policy lies in no file", named.display());
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn files_include_others_by_paths_from_their_own_directory() {
        let policy = parse_files(&[
            ("main", "@include sub/one\nread: 1"),
            ("sub/one", "@include ./two\nwrite: 1"),
            ("sub/two", "close: 1"),
        ]);
        assert_eq!(names(&policy.unwrap()), ["read", "write", "close"]);
    }

    #[test]
    fn an_error_in_an_included_file_names_that_file() {
        let error = parse_files(&[("main", "read: 1\n@include one"), ("one", "\nread: 1")]).unwrap_err();
        assert_eq!(error, "one, line 2: `read` has a rule already");
        let error = parse_files(&[("main", "\n@include none")]).unwrap_err();
        assert_eq!(error, "main, line 2: `none` cannot be read: No such file or directory (os error 2)");
    }

    #[test]
    fn circles_and_depth_of_includes_have_an_end() {
        let error = parse_files(&[("main", "@include one"), ("one", "@include ../x/main"), ("x/y", "")]).unwrap_err();
        assert!(error.starts_with("one, line 1: `../x/main` cannot be read: "), "{error}");
        let error = parse_files(&[("main", "@include one"), ("one", "read: 1\n@include ./main")]).unwrap_err();
        assert_eq!(error, "one, line 2: `./main` includes itself");
        let files: Vec<_> = (0..20).map(|n| (format!("f{n}"), format!("@include f{}", n + 1))).collect();
        let mut files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        files.push(("main", "@include f0"));
        let error = parse_files(&files).unwrap_err();
        assert_eq!(error, "f6, line 1: `f7` would be included more than 8 files deep");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Policy::from_file(Path::new("/nonexistent/plugin.policy")).unwrap_err().to_string();
        let expected = "reading the seccomp policy /nonexistent/plugin.policy: No such file or directory (os error 2)";
        assert_eq!(error, expected);
    }
}
