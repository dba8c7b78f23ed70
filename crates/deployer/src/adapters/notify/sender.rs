//! Sends the undelivered notifications of one receiver, in order.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    adapters::notify::{notification::Notification, spool::Spool},
    report::warn,
};

/// How often a queue is read while its receiver accepts everything. Other processes add to it.
const INTERVAL: Duration = Duration::from_millis(500);

/// The time between the first two attempts after a failure. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Why a notification was not accepted.
#[derive(Debug)]
pub(super) enum Failure {
    /// The receiver accepts nothing now: the next notification would fail as well.
    Receiver(String),
    /// The receiver does not accept this notification. Another one may be accepted.
    Notification(String),
}

/// The notifications that a receiver rejected. Each is sent again after a pause of its own, so that it delays no other.
#[derive(Default)]
struct Rejected(HashMap<String, Pause>);

struct Pause {
    until: Instant,
    length: Duration,
}

impl Rejected {
    fn is_paused(&self, id: &str) -> bool {
        self.0.get(id).is_some_and(|it| Instant::now() < it.until)
    }

    /// Pauses a notification that was rejected. Returns whether this is the first time.
    fn pause(&mut self, id: &str) -> bool {
        let length = self.0.get(id).map_or(FIRST_PAUSE, |it| doubled(it.length));
        let until = Instant::now() + length;
        let earlier = self.0.insert(id.to_owned(), Pause { until, length });
        earlier.is_none()
    }

    /// Forgets the notifications that no longer wait.
    fn keep_only(&mut self, waiting: &[Notification]) {
        self.0.retain(|id, _| waiting.iter().any(|it| it.id == *id));
    }
}

/// The pause after one more failure.
fn doubled(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// Sends what waits for one receiver.
pub(super) struct Sender<'a, P> {
    pub(super) receiver: &'static str,
    pub(super) spool: &'a Spool,
    /// An undelivered notification that is older is dropped.
    pub(super) give_up_after: Duration,
    /// Sends one notification.
    pub(super) post: P,
}

impl<P: AsyncFn(&Notification) -> Result<(), Failure>> Sender<'_, P> {
    /// Sends the notifications that wait now, and drops old ones. Fails if the receiver accepts nothing now.
    ///
    /// The caller holds the lock of the receiver's sender. A notification that is sent while this future is dropped
    /// stays undelivered, so it may be sent twice.
    async fn send_waiting(&self, rejected: &mut Rejected) -> Result<(), String> {
        let waiting = self.spool.waiting(self.receiver);
        rejected.keep_only(&waiting);
        for notification in waiting {
            if rejected.is_paused(&notification.id) {
                continue;
            }
            match (self.post)(&notification).await {
                Ok(()) => self.spool.remove(self.receiver, &notification.id),
                Err(failure) => {
                    self.drop_if_expired(&notification);
                    match failure {
                        Failure::Notification(problem) => {
                            if rejected.pause(&notification.id) {
                                self.warn_undelivered(&problem);
                            }
                        }
                        Failure::Receiver(problem) => return Err(problem),
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends what waits, and what is added later, until this future is dropped.
    pub(super) async fn send_always(&self) {
        let mut pause = FIRST_PAUSE;
        let mut rejected = Rejected::default();
        let mut lock = None;
        loop {
            if lock.is_none() {
                lock = self.spool.lock_sender(self.receiver);
            }
            // A command that just ends may still send.
            if lock.is_none() {
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
            match self.send_waiting(&mut rejected).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(INTERVAL).await;
                }
                Err(problem) => {
                    if pause == FIRST_PAUSE {
                        self.warn_undelivered(&problem);
                    }
                    tokio::time::sleep(pause).await;
                    pause = doubled(pause);
                }
            }
        }
    }

    /// Sends what waits, for at most `limit`, unless another process sends it.
    pub(super) async fn send_within(&self, limit: Duration) {
        let Some(_lock) = self.spool.lock_sender(self.receiver) else {
            return;
        };
        let mut rejected = Rejected::default();
        let sent = tokio::time::timeout(limit, self.send_waiting(&mut rejected)).await;
        let result = sent.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        if let Err(problem) = result {
            self.warn_undelivered(&problem);
        }
    }

    fn warn_undelivered(&self, problem: &str) {
        let (receiver, keep) = (
            self.receiver,
            humantime::format_duration(self.give_up_after),
        );
        warn(&format!(
            "alerts.{receiver} did not accept a notification: {problem}; the monitor or a later command sends it again, for {keep}"
        ));
    }

    fn drop_if_expired(&self, notification: &Notification) {
        if is_expired(notification, self.give_up_after) {
            self.spool.remove(self.receiver, &notification.id);
            let (receiver, text) = (self.receiver, &notification.text);
            warn(&format!(
                "alerts.{receiver} never accepted this notification, which is dropped: {text}"
            ));
        }
    }
}

/// Whether a notification is older than `limit`.
pub(super) fn is_expired(notification: &Notification, limit: Duration) -> bool {
    let age = Timestamp::now().duration_since(notification.at);
    Duration::try_from(age).is_ok_and(|age| age > limit)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::adapters::notify::test_notification;

    const NEVER: Duration = Duration::MAX;

    fn sender<P>(spool: &Spool, give_up_after: Duration, post: P) -> Sender<'_, P> {
        Sender {
            receiver: "webhook",
            spool,
            give_up_after,
            post,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn receiver_outage_of_ten_minutes_loses_nothing() {
        let outage = Duration::from_mins(10);
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let began = Instant::now();
        let (delivered, attempts) = (RefCell::new(Vec::new()), RefCell::new(0));
        let post = async |notification: &Notification| {
            *attempts.borrow_mut() += 1;
            if began.elapsed() < outage {
                return Err(Failure::Receiver("it answered 503".to_owned()));
            }
            delivered.borrow_mut().push(notification.clone());
            Ok(())
        };
        let sender = sender(&spool, NEVER, post);
        let notifications: Vec<Notification> = (0..5).map(test_notification).collect();
        let another_process = async {
            for notification in &notifications {
                spool.add("webhook", notification);
                tokio::time::sleep(Duration::from_mins(1)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sender.send_always() => {}
            () = another_process => {}
            () = tokio::time::sleep(outage + LONGEST_PAUSE) => {}
        }
        assert_eq!(*delivered.borrow(), notifications);
        assert!(spool.waiting("webhook").is_empty());
        let attempts = *attempts.borrow() - notifications.len();
        assert!(attempts < 20, "{attempts} attempts in {outage:?}");
    }

    #[tokio::test]
    async fn rejected_notification_holds_up_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let [bad, good] = [0, 1].map(test_notification);
        spool.add("webhook", &bad);
        spool.add("webhook", &good);
        let post = async |notification: &Notification| {
            if *notification == bad {
                return Err(Failure::Notification("it answered 400".to_owned()));
            }
            Ok(())
        };
        let mut rejected = Rejected::default();
        let sender = sender(&spool, NEVER, post);
        assert_eq!(sender.send_waiting(&mut rejected).await, Ok(()));
        assert!(rejected.is_paused(&bad.id));
        assert_eq!(spool.waiting("webhook"), [bad]);
    }

    #[tokio::test(start_paused = true)]
    async fn later_alert_is_sent_at_once_after_a_rejected_one() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let [bad, good] = [0, 1].map(test_notification);
        let (attempts, delivered) = (RefCell::new(0), RefCell::new(None));
        let post = async |notification: &Notification| {
            if *notification == bad {
                *attempts.borrow_mut() += 1;
                return Err(Failure::Notification("it answered 400".to_owned()));
            }
            *delivered.borrow_mut() = Some(Instant::now());
            Ok(())
        };
        spool.add("webhook", &bad);
        let sender = sender(&spool, NEVER, post);
        let added = RefCell::new(None);
        let another_process = async {
            tokio::time::sleep(Duration::from_mins(10)).await;
            spool.add("webhook", &good);
            *added.borrow_mut() = Some(Instant::now());
            tokio::time::sleep(INTERVAL * 2).await;
        };
        tokio::select! {
            () = sender.send_always() => {}
            () = another_process => {}
        }
        let delivered = delivered.borrow().expect("not sent at once");
        let delay = delivered - added.borrow().unwrap();
        assert!(delay <= INTERVAL, "{delay:?}");
        let attempts = *attempts.borrow();
        assert!((10..20).contains(&attempts), "{attempts} attempts");
    }

    #[tokio::test]
    async fn old_notification_is_tried_once_more_and_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let old = test_notification(0);
        let recent = Notification {
            at: Timestamp::now(),
            ..test_notification(1)
        };
        spool.add("webhook", &old);
        spool.add("webhook", &recent);
        let tried = RefCell::new(Vec::new());
        let post = async |notification: &Notification| {
            tried.borrow_mut().push(notification.clone());
            Err(Failure::Receiver("it answered 503".to_owned()))
        };
        let sender = sender(&spool, Duration::from_hours(1), post);
        let mut rejected = Rejected::default();
        sender.send_waiting(&mut rejected).await.unwrap_err();
        assert_eq!(*tried.borrow(), [old]);
        assert_eq!(spool.waiting("webhook"), [recent]);
    }

    #[tokio::test(start_paused = true)]
    async fn ended_command_waits_briefly_and_keeps_what_waits() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let notification = test_notification(0);
        spool.add("webhook", &notification);
        let never = async |_: &Notification| std::future::pending().await;
        let limit = Duration::from_secs(3);
        let began = Instant::now();
        sender(&spool, NEVER, never).send_within(limit).await;
        assert_eq!(began.elapsed(), limit);
        assert_eq!(spool.waiting("webhook"), [notification]);

        let _monitor = spool.lock_sender("webhook");
        let post = async |_: &Notification| panic!("the monitor sends it");
        sender(&spool, NEVER, post).send_within(limit).await;
    }
}
