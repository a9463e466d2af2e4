//! Whether operations on one register can be put into an order that explains every answer: each at one
//! moment between question and answer, each read seeing the last write (Herlihy and Wing's linearizability;
//! the search is Wing and Gong's, with Lowe's memory of what was tried).

use std::collections::HashSet;
use std::time::Duration;

use clawhub_types::Digest;

/// What a register holds: nothing at first.
pub type Value = Option<Digest>;

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Writes this.
    Write(Digest),
    /// Empties a register that holds something.
    Clear,
    /// Sees this.
    Read(Value),
}

impl Effect {
    /// The value afterwards; `None` if it could not have happened with this one before.
    fn after(&self, value: &Value) -> Option<Value> {
        match self {
            Effect::Write(digest) => Some(Some(digest.clone())),
            Effect::Clear => value.is_some().then_some(None),
            Effect::Read(seen) => (seen == value).then(|| value.clone()),
        }
    }

    /// What it sees, if it is a read.
    pub(super) fn sees(&self) -> Option<&Value> {
        match self {
            Effect::Read(seen) => Some(seen),
            Effect::Write(_) | Effect::Clear => None,
        }
    }

    /// What it leaves, if it is a write.
    pub(super) fn leaves(&self) -> Option<Value> {
        match self {
            Effect::Write(digest) => Some(Some(digest.clone())),
            Effect::Clear => Some(None),
            Effect::Read(_) => None,
        }
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Step {
    /// It happened not before this,
    pub asked: Duration,
    /// and not after this. `None` if its outcome is unknown: it may happen at any later time, or never.
    pub answered: Option<Duration>,
    /// What it does.
    pub effect: Effect,
}

/// Looks for an order. `steps` are sorted by `asked`.
///
/// # Errors
/// If there is none: the step, by its index, that the longest explanation does not get past.
pub fn explain(steps: &[Step]) -> Result<(), usize> {
    let mut tried = HashSet::new();
    let mut open = vec![Partial { placed: vec![0; steps.len().div_ceil(64)], count: 0, value: None }];
    let mut longest = (0, None);
    while let Some(partial) = open.pop() {
        let Some(due) = partial.due(steps) else { return Ok(()) };
        if longest.1.is_none() || partial.count > longest.0 {
            longest = (partial.count, Some(due));
        }
        for next in partial.next(steps, due) {
            if tried.insert((next.placed.clone(), next.value.clone())) {
                open.push(next);
            }
        }
    }
    Err(longest.1.unwrap_or(0))
}

/// The beginning of an order.
struct Partial {
    /// A bit for each step in it.
    placed: Vec<u64>,
    count: usize,
    /// What the register holds after it.
    value: Value,
}

impl Partial {
    fn has(&self, step: usize) -> bool {
        self.placed[step / 64] >> (step % 64) & 1 == 1
    }

    fn with(&self, step: usize, value: Value) -> Partial {
        let mut placed = self.placed.clone();
        placed[step / 64] |= 1 << (step % 64);
        Partial { placed, count: self.count + 1, value }
    }

    /// The step not in it whose answer came first; every further one begins before that answer.
    fn due(&self, steps: &[Step]) -> Option<usize> {
        let answered = |i: usize| steps[i].answered.map(|at| (at, i));
        (0..steps.len()).filter(|i| !self.has(*i)).filter_map(answered).min().map(|(_, i)| i)
    }

    /// Every way to go on by one step. A read of what is there changes nothing for the others, so it is the
    /// only one; an unknown write of what is there is put off, since it need never have happened.
    fn next(&self, steps: &[Step], due: usize) -> Vec<Partial> {
        let horizon = steps[due].answered;
        let begun = steps.iter().take_while(|step| horizon.is_none_or(|at| step.asked <= at)).enumerate();
        let mut ways = Vec::new();
        for (i, step) in begun.filter(|(i, _)| !self.has(*i)) {
            let Some(value) = step.effect.after(&self.value) else { continue };
            if matches!(step.effect, Effect::Read(_)) {
                return vec![self.with(i, value)];
            }
            if step.answered.is_some() || value != self.value {
                ways.push(self.with(i, value));
            }
        }
        ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Digest = Digest::Sha256([1; 32]);
    const TWO: Digest = Digest::Sha256([2; 32]);

    /// An operation from `asked` to `answered`, in seconds; 0 for unknown.
    fn step(asked: u64, answered: u64, effect: Effect) -> Step {
        let answered = (answered > 0).then(|| Duration::from_secs(answered));
        Step { asked: Duration::from_secs(asked), answered, effect }
    }

    use Effect::{Clear, Read, Write};

    #[test]
    fn what_can_be_explained() {
        for steps in [
            vec![step(1, 2, Read(None)), step(3, 4, Write(ONE)), step(5, 6, Read(Some(ONE)))],
            // A read at the same time as a write sees either.
            vec![step(1, 9, Write(ONE)), step(2, 3, Read(None)), step(4, 5, Read(Some(ONE)))],
            // Two writes at once, in either order.
            vec![step(1, 9, Write(ONE)), step(2, 8, Write(TWO)), step(10, 11, Read(Some(ONE)))],
            // An unknown write that never happened, one that did, and one that did late.
            vec![step(1, 0, Write(ONE)), step(2, 3, Read(None)), step(4, 5, Read(None))],
            vec![step(1, 0, Write(ONE)), step(2, 3, Read(Some(ONE)))],
            vec![step(1, 0, Write(ONE)), step(2, 3, Write(TWO)), step(4, 5, Read(Some(ONE)))],
            // The same content again after a deletion.
            vec![step(1, 2, Write(ONE)), step(3, 4, Clear), step(5, 6, Write(ONE)), step(7, 8, Clear)],
            // A deletion that nobody knows of, and so a tag that is there or not, once.
            vec![
                step(1, 2, Write(ONE)),
                step(3, 0, Clear),
                step(4, 5, Read(Some(ONE))),
                step(6, 7, Read(None)),
            ],
        ] {
            assert_eq!(explain(&steps), Ok(()), "{steps:?}");
        }
    }

    #[test]
    fn what_cannot() {
        for (steps, wrong) in [
            // Lost.
            (vec![step(1, 2, Write(ONE)), step(3, 4, Read(None))], 1),
            // Never written.
            (vec![step(1, 2, Write(ONE)), step(3, 4, Read(Some(TWO)))], 1),
            // Read before it was written.
            (vec![step(1, 2, Read(Some(ONE))), step(3, 4, Write(ONE))], 0),
            // Older than what was acknowledged.
            (vec![step(1, 2, Write(ONE)), step(3, 4, Write(TWO)), step(5, 6, Read(Some(ONE)))], 2),
            // Back again, although the write is still under way.
            (vec![step(1, 9, Write(ONE)), step(2, 3, Read(Some(ONE))), step(4, 5, Read(None))], 2),
            // The same with an unknown write: it happens once or never.
            (vec![step(1, 0, Write(ONE)), step(2, 3, Read(Some(ONE))), step(4, 5, Read(None))], 2),
            // Deleted twice, and written once.
            (vec![step(1, 2, Write(ONE)), step(3, 4, Clear), step(5, 6, Clear)], 2),
        ] {
            assert_eq!(explain(&steps), Err(wrong), "{steps:?}");
        }
    }

    #[test]
    fn many_unknown_writes_of_one_value_do_not_multiply() {
        let unknown = (0..200).map(|i| step(i, 0, Write(ONE)));
        let mut steps: Vec<_> = unknown.chain([step(300, 301, Read(Some(ONE)))]).collect();
        assert_eq!(explain(&steps), Ok(()));
        steps.push(step(302, 303, Read(None)));
        assert_eq!(explain(&steps), Err(201));
    }
}
