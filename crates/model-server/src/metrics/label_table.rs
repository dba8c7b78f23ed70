use std::sync::OnceLock;

/// A table whose rows are added on first use, and never removed.
///
/// For labels with few values: a lookup compares the rows one by one, without a lock, a hash, or an allocation.
#[derive(Debug)]
pub(crate) struct LabelTable<T, const ROWS: usize> {
    rows: [OnceLock<T>; ROWS],
}

impl<T, const ROWS: usize> LabelTable<T, ROWS> {
    /// Creates an empty table.
    pub(crate) fn new() -> Self {
        Self {
            rows: [const { OnceLock::new() }; ROWS],
        }
    }

    /// Returns the index of the row for which `is` is true, and adds the row `new()` if there is none; `None`
    /// if the table is full.
    pub(crate) fn index_of(&self, is: impl Fn(&T) -> bool, new: impl Fn() -> T) -> Option<usize> {
        self.rows.iter().position(|row| is(row.get_or_init(&new)))
    }

    /// Returns that row itself.
    pub(crate) fn find(&self, is: impl Fn(&T) -> bool, new: impl Fn() -> T) -> Option<&T> {
        self.get(self.index_of(is, new)?)
    }

    /// Returns the row with an index.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.rows.get(index)?.get()
    }

    /// Iterates over all rows in the order of their first use.
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
    fn row_is_added_once_and_found_again() {
        let table = LabelTable::new();
        for name in ["a", "b", "a", "b"] {
            assert_eq!(find(&table, name), Some(name));
        }
        assert_eq!(table.iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn full_table_finds_its_rows_and_adds_none() {
        let table = LabelTable::new();
        assert!(find(&table, "a").is_some() && find(&table, "b").is_some());
        assert_eq!(find(&table, "c"), None);
        assert_eq!(find(&table, "b"), Some("b"));
    }
}
