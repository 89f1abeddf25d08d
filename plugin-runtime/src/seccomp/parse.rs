//! Policy files: one rule a line, by the call's name.

use std::fs;
use std::path::{Path, PathBuf};

use syscalls::Sysno;

use super::policy::Policy;
use super::rule;
use crate::error::{Error, Result};

/// How deep files may include each other.
const MAX_DEPTH: usize = 8;

impl Policy {
    /// Reads the policy that is `text`, called `name` in errors. It includes nothing.
    pub(super) fn from_text(name: &Path, text: &str) -> Result<Self> {
        let mut reader = Reader { policy: Self::default(), open: vec![name.to_owned()] };
        reader.read_text(name, text)?;
        Ok(reader.policy)
    }

    /// Reads the policy in the file at `path`, and in those it includes.
    pub(super) fn from_file(path: &Path) -> Result<Self> {
        let mut reader = Reader { policy: Self::default(), open: Vec::new() };
        let text = fs::read_to_string(path).map_err(Error::reading_policy(path))?;
        reader.open.push(path.to_owned());
        reader.read_text(path, &text)?;
        Ok(reader.policy)
    }
}

struct Reader {
    policy: Policy,
    /// The file being read, last, and those that include it.
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
        let path = file.parent().unwrap_or(Path::new("")).join(named);
        if self.open.len() >= MAX_DEPTH {
            return Err(Wrong::Here(format!("`{named}` would be included more than {MAX_DEPTH} files deep")));
        }
        let real = path.canonicalize().map_err(cannot_read(named))?;
        if self.open.iter().any(|open| open.canonicalize().is_ok_and(|open| open == real)) {
            return Err(Wrong::Here(format!("`{named}` includes itself")));
        }
        let text = fs::read_to_string(&path).map_err(cannot_read(named))?;
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
