//! The few things that were used last.

/// At most `most` entries, of which the one that was not used for longest makes room for a new one. They are few and
/// compared one by one, so keys need no hash.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    most: usize,
    /// The last used stands last.
    entries: Vec<(K, V)>,
}

impl<K: PartialEq, V> Recent<K, V> {
    pub fn new(most: usize) -> Self {
        Self { most, entries: Vec::new() }
    }

    /// The value of a key, which counts as a use.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        let at = self.entries.iter().position(|(other, _)| other == key)?;
        let entry = self.entries.remove(at);
        self.entries.push(entry);
        self.entries.last_mut().map(|(_, value)| value)
    }

    /// The value of a key, without using it.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.iter().find(|(other, _)| other == key).map(|(_, value)| value)
    }

    /// Adds a key that is not there yet; what had to make room comes back.
    pub fn add(&mut self, key: K, value: V) -> Option<V> {
        let evicted = (self.entries.len() >= self.most).then(|| self.entries.remove(0).1);
        self.entries.push((key, value));
        evicted
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.add("a", 1), None);
        assert_eq!(recent.add("b", 2), None);
        assert_eq!(recent.touch(&"a"), Some(&mut 1));
        assert_eq!(recent.add("c", 3), Some(2));
        assert_eq!((recent.get(&"a"), recent.get(&"b"), recent.get(&"c")), (Some(&1), None, Some(&3)));
    }
}
