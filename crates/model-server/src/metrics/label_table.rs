use std::sync::OnceLock;

/// Rows that are added when they are first asked for, and never leave.
///
/// For the few values of a label: finding a row takes no lock, no hash and no allocation, only a
/// look at each row before it.
#[derive(Debug)]
pub(crate) struct LabelTable<T, const ROWS: usize> {
    rows: [OnceLock<T>; ROWS],
}

impl<T, const ROWS: usize> LabelTable<T, ROWS> {
    /// A table without rows.
    pub(crate) fn new() -> Self {
        Self {
            rows: [const { OnceLock::new() }; ROWS],
        }
    }

    /// The index of the row that `is` the one, made by `new` if there is none; `None` if there is no room.
    pub(crate) fn index_of(&self, is: impl Fn(&T) -> bool, new: impl Fn() -> T) -> Option<usize> {
        self.rows.iter().position(|row| is(row.get_or_init(&new)))
    }

    /// The same row itself.
    pub(crate) fn find(&self, is: impl Fn(&T) -> bool, new: impl Fn() -> T) -> Option<&T> {
        self.get(self.index_of(is, new)?)
    }

    /// The row with an index.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.rows.get(index)?.get()
    }

    /// All rows, in the order of their first use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.rows.iter().map_while(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(table: &'a LabelTable<String, 2>, name: &str) -> Option<&'a str> {
        let row = table.find(|row| row == name, || name.to_owned());
        row.map(String::as_str)
    }

    #[test]
    fn a_row_is_made_once_and_found_again() {
        let table = LabelTable::new();
        for name in ["a", "b", "a", "b"] {
            assert_eq!(find(&table, name), Some(name));
        }
        assert_eq!(table.iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_full_table_knows_its_rows_and_takes_no_other() {
        let table = LabelTable::new();
        assert!(find(&table, "a").is_some() && find(&table, "b").is_some());
        assert_eq!(find(&table, "c"), None);
        assert_eq!(find(&table, "b"), Some("b"));
    }
}
