//! Whether the kernel makes huge pages of guest memory.

use std::fs;

/// Where the kernel says for which shared memory it makes huge pages; guest memory is shared (kernel documentation,
/// Transparent Hugepage Support).
const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Tells where `--hugepages` cannot do anything.
pub(crate) fn warn_where_there_are_none() {
    let setting = match fs::read_to_string(SETTING) {
        Ok(setting) => setting,
        Err(error) => {
            tracing::warn!("--hugepages does nothing: this kernel has no huge pages: {SETTING}: {error}");
            return;
        }
    };
    if let Some(none @ ("never" | "deny")) = chosen(&setting) {
        tracing::warn!("--hugepages does nothing: {SETTING} is `{none}`; `advise` is enough for it");
    }
}

/// The one word in brackets.
fn chosen(setting: &str) -> Option<&str> {
    setting.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_the_word_in_brackets() {
        assert_eq!(chosen("always within_size advise [never] deny force\n"), Some("never"));
        assert_eq!(chosen("[always] never"), Some("always"));
        assert_eq!(chosen("always"), None);
    }
}
