//! Texts that cells refer to by number, end to end.

/// What a text costs beside its bytes.
const TEXT_BYTES: u64 = 8;

#[derive(Default)]
pub(super) struct SharedTexts {
    texts: String,
    ends: Vec<u32>,
}

impl SharedTexts {
    /// # Errors
    /// When all together have 4 GiB.
    pub(super) fn push(&mut self, text: &str) -> Result<(), String> {
        self.texts.push_str(text);
        let end = u32::try_from(self.texts.len()).map_err(|_| "the texts of its cells take 4 GiB")?;
        self.ends.push(end);
        Ok(())
    }

    pub(super) fn num_bytes(&self) -> u64 {
        self.texts.len() as u64 + self.ends.len() as u64 * TEXT_BYTES
    }

    /// # Errors
    /// When there is no such text.
    pub(super) fn get(&self, index: usize) -> Result<&str, String> {
        let find = || {
            let end = *self.ends.get(index)?;
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
            self.texts.get(start as usize..end as usize)
        };
        find().ok_or_else(|| "a cell refers to a text that there is not".to_owned())
    }
}
