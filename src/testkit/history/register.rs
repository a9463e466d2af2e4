//! Whether operations on one register, by any number of writers, can be put into an order that explains every
//! answer: each at one moment between question and answer, each seeing what the one before it left (Herlihy and
//! Wing's linearizability).
//!
//! The search is Wing and Gong's, with Lowe's memory of what was tried (as in Porcupine). Three things keep it small:
//!
//! - What is to be ordered at a time are the operations that were under way together: so many clients, so many.
//!   Everything before is placed, everything after waits, so `n` operations of `c` clients are about `n · 2^c` states.
//! - A read that sees what is there is placed at once: it changes nothing for the others.
//! - An operation without an answer may have happened at any later time, or never, so these pile up. But if one
//!   happened and mattered, then somebody met with what it left, and it may as well have happened just before. So
//!   it is only ever placed together with the answered operation that needs it; since values are written once,
//!   there is hardly ever a choice.
//!
//! `register_test.rs` compares it with a search that tries every order.

use std::collections::HashSet;
use std::time::Duration;

use clawhub_types::Digest;

/// What a register holds: nothing at first.
pub type Value = Option<Digest>;

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Writes this.
    Write(Digest),
    /// Writes a value if it holds another one; without that it does not happen.
    Swap {
        /// What it must hold.
        from: Value,
        /// What it holds then.
        to: Value,
    },
    /// Empties a register that holds something; without that it does not happen.
    Clear,
    /// Empties a register that holds this, and leaves any other as it is.
    Drop(Digest),
    /// Sees this.
    Read(Value),
    /// Sees something.
    Holds,
    /// Sees nothing, or anything but this.
    Not(Digest),
}

impl Effect {
    /// The value afterwards; `None` if it could not have happened with this one before.
    fn after(&self, value: &Value) -> Option<Value> {
        match self {
            Effect::Write(digest) => Some(Some(digest.clone())),
            Effect::Swap { from, to } => (from == value).then(|| to.clone()),
            Effect::Clear => value.is_some().then_some(None),
            Effect::Drop(digest) if value.as_ref() == Some(digest) => Some(None),
            Effect::Drop(_) => Some(value.clone()),
            Effect::Read(seen) => (seen == value).then(|| value.clone()),
            Effect::Holds => value.is_some().then(|| value.clone()),
            Effect::Not(digest) => (value.as_ref() != Some(digest)).then(|| value.clone()),
        }
    }

    /// Whether it only looks.
    fn looks(&self) -> bool {
        matches!(self, Effect::Read(_) | Effect::Holds | Effect::Not(_))
    }

    /// The value that it tells apart from others, if there is one.
    fn names(&self) -> Option<&Digest> {
        match self {
            Effect::Swap { from, .. } => from.as_ref(),
            Effect::Read(seen) => seen.as_ref(),
            Effect::Drop(digest) | Effect::Not(digest) => Some(digest),
            Effect::Write(_) | Effect::Clear | Effect::Holds => None,
        }
    }

    /// What it leaves behind where it does something.
    fn leaves(&self) -> Option<Value> {
        match self {
            Effect::Write(digest) => Some(Some(digest.clone())),
            Effect::Swap { to, .. } => Some(to.clone()),
            Effect::Clear => Some(None),
            _ => None,
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

/// Why there is no explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is none. The step, by its index, that the longest attempt does not get past.
    Contradiction(usize),
    /// None was found among so many attempts. The same step.
    Undecided(usize),
}

impl Wrong {
    /// The step that the longest attempt does not get past.
    pub fn step(self) -> usize {
        match self {
            Wrong::Contradiction(step) | Wrong::Undecided(step) => step,
        }
    }
}

/// So many beginnings of an order are tried for one register; a true history takes about one for each operation.
const ATTEMPTS: usize = 1_000_000;

/// Looks for an order.
///
/// # Errors
/// If there is none, or none was found.
pub fn explain(steps: &[Step]) -> Result<(), Wrong> {
    let search = Search::new(steps);
    let mut tried = HashSet::new();
    let mut open = vec![Order::default()];
    let mut longest = (0, None);
    while let Some(order) = open.pop() {
        let Some(due) = search.due(&order) else { return Ok(()) };
        let placed = order.before + order.ahead.len();
        if longest.1.is_none() || placed > longest.0 {
            longest = (placed, Some(search.sure[due].0));
        }
        if tried.len() >= ATTEMPTS {
            return Err(Wrong::Undecided(longest.1.unwrap_or(0)));
        }
        for next in search.next(&order, due) {
            if tried.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    Err(Wrong::Contradiction(longest.1.unwrap_or(0)))
}

/// The beginning of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Order {
    /// So many of those with an answer, by when they began, are in it,
    before: usize,
    /// and of the further ones these, in order.
    ahead: Vec<usize>,
    /// Those without an answer that are in it, in order.
    doubtful: Vec<usize>,
    /// What the register holds after it.
    value: Value,
}

impl Order {
    fn has(&self, sure: usize) -> bool {
        sure < self.before || self.ahead.binary_search(&sure).is_ok()
    }

    /// Goes on by one that has an answer.
    fn with(&self, sure: usize, value: Value) -> Order {
        let mut next = Order { value, ..self.clone() };
        if let Err(place) = next.ahead.binary_search(&sure) {
            next.ahead.insert(place, sure);
        }
        let joins =
            next.ahead.iter().zip(next.before..).take_while(|(ahead, before)| *ahead == before).count();
        next.ahead.drain(..joins);
        next.before += joins;
        next
    }

    /// Goes on by one that has none.
    fn and(&self, doubtful: usize, value: Value) -> Order {
        let mut next = Order { value, ..self.clone() };
        if let Err(place) = next.doubtful.binary_search(&doubtful) {
            next.doubtful.insert(place, doubtful);
        }
        next
    }
}

struct Search<'a> {
    /// Those with an answer, and when that came, by when they began; each with its index.
    sure: Vec<(usize, &'a Step, Duration)>,
    /// Those without, by when they began, and what each does if it does anything.
    doubtful: Vec<(Duration, Effect)>,
    /// What somebody tells apart from other values.
    named: HashSet<&'a Digest>,
}

impl<'a> Search<'a> {
    fn new(steps: &'a [Step]) -> Search<'a> {
        let answered = |(i, step): (usize, &'a Step)| Some((i, step, step.answered?));
        let mut sure: Vec<_> = steps.iter().enumerate().filter_map(answered).collect();
        sure.sort_by_key(|(_, step, _)| step.asked);
        let unknown = steps.iter().filter(|step| step.answered.is_none() && !step.effect.looks());
        let does = |step: &Step| match &step.effect {
            // Elsewhere it does nothing, and then it need not have happened.
            Effect::Drop(digest) => Effect::Swap { from: Some(digest.clone()), to: None },
            effect => effect.clone(),
        };
        let mut doubtful: Vec<_> = unknown.map(|step| (step.asked, does(step))).collect();
        doubtful.sort_by_key(|(asked, _)| *asked);
        let named = steps.iter().filter_map(|step| step.effect.names()).collect();
        Search { sure, doubtful, named }
    }

    /// Whose answer comes first of those that are not placed: every further one begins before that answer.
    fn due(&self, order: &Order) -> Option<usize> {
        let mut due: Option<(Duration, usize)> = None;
        for (i, (_, step, answered)) in self.sure.iter().enumerate().skip(order.before) {
            if due.is_some_and(|(first, _)| step.asked > first) {
                break;
            }
            if !order.has(i) && due.is_none_or(|(first, _)| *answered < first) {
                due = Some((*answered, i));
            }
        }
        due.map(|(_, i)| i)
    }

    /// Every way to go on by one that has an answer, with those without that it needs.
    fn next(&self, order: &Order, due: usize) -> Vec<Order> {
        let horizon = self.sure[due].2;
        let begun = self.sure.iter().enumerate().skip(order.before);
        let begun = begun.take_while(|(_, (_, step, _))| step.asked <= horizon);
        let mut ways = Vec::new();
        for (i, (_, step, _)) in begun.filter(|(i, _)| !order.has(*i)) {
            if let Some(value) = step.effect.after(&order.value) {
                let next = order.with(i, value);
                if step.effect.looks() {
                    return vec![next];
                }
                ways.push(next);
            }
            let detours = self.detours(order, horizon, &step.effect);
            ways.extend(detours.into_iter().filter_map(|on| {
                let value = step.effect.after(&on.value)?;
                Some(on.with(i, value))
            }));
        }
        ways
    }

    /// Ways by operations without an answer to where `effect` happens, or does something else than it would here.
    fn detours(&self, order: &Order, horizon: Duration, effect: &Effect) -> Vec<Order> {
        let value = &order.value;
        match effect {
            Effect::Write(_) => vec![],
            Effect::Swap { from: wanted, .. } | Effect::Read(wanted) if wanted == value => vec![],
            Effect::Swap { from: wanted, .. } | Effect::Read(wanted) => self.to(order, horizon, wanted),
            Effect::Clear | Effect::Holds if value.is_some() => vec![],
            Effect::Clear | Effect::Holds => self.away(order, horizon, |to| to.is_some()),
            Effect::Not(digest) if value.as_ref() != Some(digest) => vec![],
            Effect::Not(digest) => self.away(order, horizon, |to| to.as_ref() != Some(digest)),
            Effect::Drop(digest) if value.as_ref() == Some(digest) => {
                // Something else was swapped in just before, and stays.
                let open = self.open(order, horizon);
                let swaps = open.filter(|(_, does)| matches!(does, Effect::Swap { to: Some(_), .. }));
                swaps.filter_map(|(i, does)| Some(order.and(i, does.after(value)?))).collect()
            }
            Effect::Drop(digest) => self.to(order, horizon, &Some(digest.clone())),
        }
    }

    /// Those without an answer that are not placed and have begun. Of equal ones the first: all of them may happen
    /// at any time from here on.
    fn open(&self, order: &Order, horizon: Duration) -> impl Iterator<Item = (usize, &Effect)> {
        let begun = self.doubtful.iter().enumerate().take_while(move |(_, (asked, _))| *asked <= horizon);
        let mut seen = HashSet::new();
        let open = begun.filter(|(i, _)| order.doubtful.binary_search(i).is_err());
        open.filter_map(move |(i, (_, does))| seen.insert(does).then_some((i, does)))
    }

    /// Every way to exactly this value: by who writes it, or by who swaps it in for a value that can be reached.
    fn to(&self, order: &Order, horizon: Duration, wanted: &Value) -> Vec<Order> {
        if *wanted == order.value {
            return vec![order.clone()];
        }
        let mut ways = Vec::new();
        for (i, does) in self.open(order, horizon).filter(|(_, does)| does.leaves().as_ref() == Some(wanted))
        {
            let before = match does {
                Effect::Swap { from, .. } => {
                    // It is used up on the way to itself, too.
                    let used = order.and(i, order.value.clone());
                    self.to(&used, horizon, from)
                }
                _ => vec![order.clone()],
            };
            ways.extend(before.into_iter().filter_map(|on| Some(on.and(i, does.after(&on.value)?))));
        }
        ways
    }

    /// Every way, one step long, to a value that will do. Writes that nobody tells apart from others are alike.
    fn away(&self, order: &Order, horizon: Duration, will_do: impl Fn(&Value) -> bool) -> Vec<Order> {
        let (mut swaps, mut alike, mut named) = (Vec::new(), None, Vec::new());
        for (i, does) in self.open(order, horizon) {
            let Some(to) = does.after(&order.value).filter(|to| will_do(to)) else { continue };
            let known = matches!(&to, Some(digest) if self.named.contains(digest));
            let next = order.and(i, to);
            match does {
                Effect::Write(_) if known => named.push(next),
                Effect::Write(_) => drop(alike.get_or_insert(next)),
                _ => swaps.push(next),
            }
        }
        // What is told apart is better kept for that.
        if alike.is_none() {
            swaps.extend(named);
        }
        swaps.extend(alike);
        swaps
    }
}

#[cfg(test)]
#[path = "register_test.rs"]
mod tests;
