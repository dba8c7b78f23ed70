//! The document that keeps the figures: a section for each kind, which is replaced alone.

const HEAD: &str = "\
# Benchmarks

Written by `make bench` (`scripts/bench`), which replaces each section with what it measured: one run
on one machine, over loopback, the rounds of everything compared alternating.
";

/// A part of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// The model server and its peers.
    Models,
    /// Too many requests.
    Overload,
    /// Switching, and the router.
    Switching,
    /// The deployer's load generator.
    Generator,
}

impl Section {
    const ALL: [Self; 4] = [
        Self::Models,
        Self::Overload,
        Self::Switching,
        Self::Generator,
    ];

    fn marks(self) -> [&'static str; 2] {
        match self {
            Self::Models => ["<!-- begin models -->", "<!-- end models -->"],
            Self::Overload => ["<!-- begin overload -->", "<!-- end overload -->"],
            Self::Switching => ["<!-- begin switching -->", "<!-- end switching -->"],
            Self::Generator => ["<!-- begin generator -->", "<!-- end generator -->"],
        }
    }

    /// The document with this section's text, and the others as they were in `before`.
    pub(crate) fn replace_in(self, before: &str, text: &str) -> String {
        let mut document = HEAD.to_owned();
        for section in Self::ALL {
            let text = if section == self {
                Some(text)
            } else {
                section.text_in(before)
            };
            if let Some(text) = text {
                let [begin, end] = section.marks();
                document.extend(["\n", begin, "\n", text.trim(), "\n", end, "\n"]);
            }
        }
        document
    }

    fn text_in(self, document: &str) -> Option<&str> {
        let [begin, end] = self.marks();
        let (_, rest) = document.split_once(begin)?;
        Some(rest.split_once(end)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_other_one_stays() {
        let document = Section::Switching.replace_in("", "old switching");
        let document = Section::Models.replace_in(&document, "models");
        let document = Section::Switching.replace_in(&document, "new switching");
        assert_eq!(Section::Models.text_in(&document), Some("\nmodels\n"));
        assert_eq!(
            Section::Switching.text_in(&document),
            Some("\nnew switching\n")
        );
        assert_eq!(document.matches("# Benchmarks").count(), 1);
    }
}
