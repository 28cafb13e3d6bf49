//! Who waits until their events are in the log, and how they are told.

use tallylight_proto::reason::Shed;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// That the events are where they were wanted, or could not be taken.
pub type Answer = Result<(), Shed>;

/// Where a sender learns the answer. Closed without one if the log has failed.
pub type Ack = oneshot::Receiver<Answer>;

/// Where the answer goes. Dropped without one if the log fails.
#[derive(Debug)]
pub struct AckSender {
    sender: oneshot::Sender<Answer>,
    /// Where somebody waits for it, unless it is a thread.
    runtime: Option<Handle>,
}

impl AckSender {
    /// Says it, from where it is waited for or to a thread.
    pub(super) fn send(self, answer: Answer) {
        // whoever waited may be gone
        let _ = self.sender.send(answer);
    }
}

/// For somebody who waits in the runtime that this is called in, or in a thread if it is called in none.
pub fn ack() -> (AckSender, Ack) {
    let (sender, ack) = oneshot::channel();
    (AckSender { sender, runtime: Handle::try_current().ok() }, ack)
}

/// Answers all. Those who wait in one runtime are told there, together: it is woken once, and not for each of them, which
/// would be a system call each. One alone wakes it by itself.
pub(super) fn answer_all(answers: impl IntoIterator<Item = (AckSender, Answer)>) {
    let mut answers = answers.into_iter().peekable();
    while let Some(first) = answers.next() {
        let runtime = first.0.runtime.clone();
        let id = |runtime: &Option<Handle>| runtime.as_ref().map(Handle::id);
        let mut together = vec![first];
        while let Some(next) = answers.next_if(|(next, _)| id(&next.runtime) == id(&runtime)) {
            together.push(next);
        }
        let are_many = together.len() > 1;
        let tell = move || together.into_iter().for_each(|(sender, answer)| sender.send(answer));
        match runtime {
            Some(runtime) if are_many => drop(runtime.spawn(async move { tell() })),
            _ => tell(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;
    use tokio::runtime::Builder;
    use tokio::time::timeout;

    #[test]
    fn each_is_told_its_own_answer_wherever_it_waits() {
        let of = |n: usize| if n.is_multiple_of(3) { Err(Shed::Disk) } else { Ok(()) };
        let runtimes = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().unwrap());
        let (mut senders, mut waiting) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut in_no_runtime = Vec::new();
        for n in 0..30 {
            let entered = runtimes.get(n / 2 % 3).map(|runtime| runtime.enter());
            let (sender, ack) = ack();
            senders.push((sender, of(n)));
            match entered {
                Some(_) => waiting[n / 2 % 3].push((n, ack)),
                None => in_no_runtime.push((n, ack)),
            }
        }
        thread::scope(|scope| {
            for (runtime, waiting) in runtimes.into_iter().zip(waiting) {
                let all = async move {
                    for (n, ack) in waiting {
                        assert_eq!(timeout(Duration::from_secs(30), ack).await.expect("it is told"), Ok(of(n)));
                    }
                };
                scope.spawn(move || runtime.block_on(all));
            }
            answer_all(senders);
        });
        in_no_runtime.into_iter().for_each(|(n, mut ack)| assert_eq!(ack.try_recv(), Ok(of(n))));
    }

    #[test]
    fn those_who_wait_in_one_runtime_wake_it_once() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (senders, acks): (Vec<_>, Vec<_>) = {
            let _entered = runtime.enter();
            (0..100).map(|_| ack()).unzip()
        };
        answer_all(senders.into_iter().map(|sender| (sender, Ok(()))));
        // nobody is told before it runs, and then everybody is
        let mut acks = acks;
        assert!(acks.iter_mut().all(|ack| ack.try_recv().is_err()));
        runtime.block_on(tokio::task::yield_now());
        assert!(acks.iter_mut().all(|ack| ack.try_recv() == Ok(Ok(()))));
    }
}
