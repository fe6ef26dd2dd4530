//! Tokens that credentials are exchanged for: fetched once for any number of requests, and refreshed before they end.
//!
//! ```text
//!  settle ── held, and it lives ─────────────────────────────▶ token
//!     │
//!     └───── not held ── the first starts a keeper ── all wait for its round ──▶ token or error
//!
//!  keeper: fetch ─▶ store ─▶ sleep until shortly before the end ─▶ wanted since? ─▶ fetch …
//! ```
//!
//! A keeper is a task of its own: requests that leave do not stop a fetch that others wait for. It ends when nobody has
//! asked since its last fetch, or when a fetch fails and no token is left. A token that its service has refused is let go
//! by the next request, which wakes the keeper.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use ring::{hmac, rand::SystemRandom};
use tokio::sync::{Notify, watch};

use crate::{
    error::{Error, Kind},
    issuer,
    provider::{
        Secret, Target,
        grant::{Grant, GrantId, Issued},
        live::LiveToken,
    },
    upstream::Upstream,
};

/// Every token of the process. Clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    upstream: ArcSwap<Upstream>,
    slots: Mutex<HashMap<GrantId, Slot>>,
    /// New in every process.
    key: hmac::Key,
}

struct Slot {
    held: Option<Held>,
    /// What the running keeper's fetches come to.
    keeper: Option<watch::Receiver<Round>>,
    /// Wakes it.
    bell: Arc<Notify>,
    used: Instant,
    /// When a refused token was last let go.
    dropped: Option<Instant>,
}

struct Held {
    token: LiveToken,
    expires: Instant,
}

/// What a fetch came to; `None`: none has ended.
type Round = Option<Result<LiveToken, Error>>;

enum Lease {
    Held(LiveToken),
    Coming(watch::Receiver<Round>),
}

impl Tokens {
    pub fn try_new(upstream: Arc<Upstream>) -> Result<Self, Error> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let message = "The system gives no random numbers.";
        Ok(Self(Arc::new(Shared {
            upstream: ArcSwap::new(upstream),
            slots: Mutex::default(),
            key: key.map_err(|_| Error::new(Kind::Internal, message))?,
        })))
    }

    /// Fetches by `upstream` from now on.
    pub fn fetch_by(&self, upstream: Arc<Upstream>) {
        self.0.upstream.store(upstream);
    }

    /// What stands for `secret` where people see it: the same as long as the process lives, and nothing to anybody elsewhere.
    pub fn fingerprint(&self, secret: &Secret) -> String {
        let tag = hmac::sign(&self.0.key, secret.expose().as_bytes());
        let start = tag.as_ref().iter().take(FINGERPRINT_BYTES);
        start.map(|byte| format!("{byte:02x}")).collect()
    }

    /// The token that `target`'s credential stands for; `None`: the credential is used as it is. Waits only if none is
    /// held that lives.
    pub async fn settle(&self, target: &Target) -> Result<Option<LiveToken>, Error> {
        let Some(grant) = target.grant() else {
            return Ok(None);
        };
        let settled = self.token(grant).await;
        settled.map(Some).map_err(|error| target.attribute(error))
    }

    async fn token(&self, grant: Grant) -> Result<LiveToken, Error> {
        match self.lease(grant, Instant::now()) {
            Lease::Held(token) => Ok(token),
            Lease::Coming(round) => wait(round).await,
        }
    }

    fn lease(&self, grant: Grant, now: Instant) -> Lease {
        let id = grant.id(&self.0.key);
        let mut slots = self.0.slots();
        if !slots.contains_key(&id) && slots.len() >= MAX_TOKENS {
            forget_oldest(&mut slots);
        }
        let slot = slots.entry(id).or_insert_with(|| Slot {
            held: None,
            keeper: None,
            bell: Arc::default(),
            used: now,
            dropped: None,
        });
        slot.used = now;
        slot.drop_refused(now);
        // A keeper whose sender is gone died with its runtime.
        let keeper = slot
            .keeper
            .take()
            .filter(|round| round.has_changed().is_ok());
        let keeper = keeper.unwrap_or_else(|| {
            let (sender, round) = watch::channel(None);
            let bell = slot.bell.clone();
            let keeper = Keeper {
                id,
                grant,
                sender,
                bell,
            };
            tokio::spawn(keeper.run(Arc::downgrade(&self.0)));
            round
        });
        let mut round = keeper.clone();
        round.mark_unchanged();
        slot.keeper = Some(keeper);
        match &slot.held {
            Some(held) if held.expires > now => Lease::Held(held.token.clone()),
            _ => Lease::Coming(round),
        }
    }
}

impl Slot {
    /// Lets go a token that was refused. Not again so soon: what refuses every token of a grant must not make each of its
    /// requests a fetch.
    fn drop_refused(&mut self, now: Instant) {
        let refused = self
            .held
            .as_ref()
            .is_some_and(|held| held.token.is_refused());
        let floor = self.dropped.and_then(|at| at.checked_add(FLOOR));
        if refused && floor.is_none_or(|floor| floor <= now) {
            self.held = None;
            self.dropped = Some(now);
            self.bell.notify_one();
        }
    }
}

/// The next round's end.
async fn wait(mut round: watch::Receiver<Round>) -> Result<LiveToken, Error> {
    let ended = round.changed().await;
    let told = round.borrow_and_update().clone();
    let stopped = || Error::new(Kind::Internal, "The token's fetch was stopped.");
    ended.map_err(|_| stopped())?;
    told.ok_or_else(stopped)?
}

/// A task that fetches one grant's tokens.
struct Keeper {
    id: GrantId,
    grant: Grant,
    sender: watch::Sender<Round>,
    bell: Arc<Notify>,
}

impl Keeper {
    async fn run(self, shared: Weak<Shared>) {
        loop {
            let asked = Instant::now();
            let Some(tokens) = shared.upgrade() else {
                return;
            };
            let fetched = tokens.fetch(&self.grant).await;
            let pause = self.store(&tokens, fetched, asked);
            drop(tokens);
            let Some(pause) = pause else { return };
            self.sleep(&shared, pause).await;
            let Some(tokens) = shared.upgrade() else {
                return;
            };
            if !self.is_wanted(&tokens, asked) {
                return;
            }
        }
    }

    /// Until `pause` is over, or the token is let go.
    async fn sleep(&self, shared: &Weak<Shared>, pause: Duration) {
        let mut pause = pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return,
                () = self.bell.notified() => {}
            }
            // What rang may have been of a round that has passed.
            if shared.upgrade().is_none_or(|tokens| !self.holds(&tokens)) {
                return;
            }
        }
    }

    fn holds(&self, tokens: &Shared) -> bool {
        let mut slots = tokens.slots();
        self.slot(&mut slots)
            .is_some_and(|slot| slot.held.is_some())
    }

    /// Keeps what was fetched, tells who waits, and says when to fetch again; `None`: never.
    fn store(
        &self,
        tokens: &Shared,
        fetched: Result<Issued, Error>,
        asked: Instant,
    ) -> Option<Duration> {
        let lifetime = fetched
            .as_ref()
            .map_or(Duration::ZERO, |issued| issued.lifetime);
        let fetched = fetched.map(|issued| LiveToken::from(issued.token));
        let mut slots = tokens.slots();
        let pause = match (self.slot(&mut slots), &fetched) {
            // Its place was taken by another's.
            (None, _) => None,
            (Some(slot), Ok(token)) => {
                slot.held = Some(Held {
                    token: token.clone(),
                    expires: asked + lifetime,
                });
                let next = asked + refresh_after(lifetime, fastrand::u32(..));
                Some(next.saturating_duration_since(Instant::now()))
            }
            (Some(slot), Err(error)) => {
                let now = Instant::now();
                let held = slot.held.as_ref();
                let left = held.and_then(|held| held.expires.checked_duration_since(now));
                match left.filter(|left| !left.is_zero()) {
                    Some(left) => {
                        let (who, why) = (self.grant.title(), error.label());
                        log::warn!("a token of {who} could not be refreshed: {why}");
                        Some(retry_after(left, fastrand::u32(..)))
                    }
                    None => {
                        slots.remove(&self.id);
                        None
                    }
                }
            }
        };
        // Under the lock: who finds no token there waits for a round that is still to come.
        self.sender.send_replace(Some(fetched));
        pause
    }

    /// Whether someone has asked since `asked`. If not, the token is let go, and this keeper ends.
    fn is_wanted(&self, tokens: &Shared, asked: Instant) -> bool {
        let mut slots = tokens.slots();
        let Some(slot) = self.slot(&mut slots) else {
            return false;
        };
        let wanted = slot.used > asked;
        if !wanted {
            slot.keeper = None;
        }
        wanted
    }

    /// This keeper's slot, if it has not been given away.
    fn slot<'s>(&self, slots: &'s mut HashMap<GrantId, Slot>) -> Option<&'s mut Slot> {
        let own = self.sender.subscribe();
        slots.get_mut(&self.id).filter(|slot| {
            let keeper = slot.keeper.as_ref();
            keeper.is_some_and(|keeper| keeper.same_channel(&own))
        })
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<GrantId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(self: &Arc<Self>, grant: &Grant) -> Result<Issued, Error> {
        let source = match grant.source() {
            Some(source) => Some(Tokens(self.clone()).token(source).await?),
            None => None,
        };
        let upstream = self.upstream.load_full();
        issuer::fetch(&upstream, grant, source.as_ref()).await
    }
}

fn forget_oldest(slots: &mut HashMap<GrantId, Slot>) {
    let oldest = slots.iter().min_by_key(|(_, slot)| slot.used);
    if let Some(id) = oldest.map(|(id, _)| *id) {
        slots.remove(&id);
    }
}

/// When to refresh a token: a quarter of its life before its end, at most 5 minutes, and up to half as much again earlier,
/// as `draw` says, so that many gateways do not ask at the same second.
fn refresh_after(lifetime: Duration, draw: u32) -> Duration {
    let margin = (lifetime / 4).min(MARGIN);
    let jitter = (margin / 2).mul_f64(f64::from(draw) / f64::from(u32::MAX));
    lifetime.saturating_sub(margin).saturating_sub(jitter)
}

/// When to ask again after a failed refresh, with `left` of the old token's life.
fn retry_after(left: Duration, draw: u32) -> Duration {
    let jitter = RETRY.mul_f64(f64::from(draw) / f64::from(u32::MAX));
    (RETRY + jitter).min(left)
}

const FINGERPRINT_BYTES: usize = 4;
/// Client-made identities must not fill the memory. Beyond this, the one not used for longest is fetched anew when asked for.
const MAX_TOKENS: usize = 1024;
const MARGIN: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(5);
/// Between two tokens of a grant that are let go because they were refused.
const FLOOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use pingora::server::configuration::ServerConf;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    use super::*;
    use crate::provider::target::Choice;
    use crate::{
        config::{Config, Timeouts},
        provider::{Base, Credential, Secret, azure::Identity},
    };

    /// A token endpoint that answers as it is told, and tells what it was asked.
    struct Endpoint {
        base: Base,
        asked: mpsc::UnboundedReceiver<String>,
    }

    impl Endpoint {
        /// `answer` gives status and body of the nth request, from 0.
        async fn start(answer: impl Fn(usize) -> (u16, String) + Send + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let (told, asked) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                for turn in 0.. {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let request = read_request(&mut stream).await;
                    let (status, body) = answer(turn);
                    let length = body.len();
                    let reply = format!(
                        "HTTP/1.1 {status} X\r\nconnection: close\r\nlocation: /elsewhere\r\ncontent-length: {length}\r\n\r\n{body}"
                    );
                    stream.write_all(reply.as_bytes()).await.unwrap();
                    let _ = told.send(request);
                }
            });
            Self {
                base: Base::try_new(&base, "base_url").unwrap(),
                asked,
            }
        }

        /// The next request, which has been answered.
        async fn next(&mut self) -> String {
            let next = tokio::time::timeout(Duration::from_secs(10), self.asked.recv());
            next.await.unwrap().unwrap()
        }

        fn target(&self, secret: &str) -> Target {
            let secret = Secret::try_new(secret).unwrap();
            let identity = Identity::entra("contoso.com", "app-1", secret).unwrap();
            target(Credential::Azure(Arc::new(identity.at(self.base.clone()))))
        }
    }

    async fn read_request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await.unwrap();
            request.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&request);
            if length == 0
                || text.starts_with("GET") && text.ends_with("\r\n\r\n")
                || text.contains("client_secret=")
            {
                return text.into_owned();
            }
        }
    }

    fn target(credential: Credential) -> Target {
        let provider = Config::default().providers["openai"].clone();
        Target::try_new(provider, Choice::of(credential)).unwrap()
    }

    fn tokens() -> Tokens {
        let upstream = Upstream::new(&ServerConf::default(), Timeouts::default(), 1);
        Tokens::try_new(Arc::new(upstream)).unwrap()
    }

    fn granted(turn: usize, seconds: u64) -> (u16, String) {
        (
            200,
            format!(r#"{{"access_token":"t-{turn}","expires_in":{seconds}}}"#),
        )
    }

    async fn settled(tokens: &Tokens, target: &Target) -> String {
        match tokens.settle(target).await.unwrap() {
            Some(token) => token.token().secrets()[0].expose().to_owned(),
            None => panic!("no token"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_thousand_requests_fetch_once() {
        let mut endpoint = Endpoint::start(|turn| granted(turn, 3600)).await;
        let (tokens, target) = (tokens(), endpoint.target("s-1"));
        let all: Vec<_> = (0..1000)
            .map(|_| {
                let (tokens, target) = (tokens.clone(), target.clone());
                tokio::spawn(async move { settled(&tokens, &target).await })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), "t-0");
        }
        let request = endpoint.next().await;
        assert!(request.starts_with("POST /contoso.com/oauth2/v2.0/token HTTP/1.1\r\n"));
        assert!(request.ends_with("&client_secret=s-1"), "{request}");
        assert_eq!(settled(&tokens, &target).await, "t-0");
        assert!(endpoint.asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_request_that_leaves_does_not_stop_the_fetch() {
        let mut endpoint = Endpoint::start(|turn| granted(turn, 3600)).await;
        let (tokens, target) = (tokens(), endpoint.target("s-1"));
        // Polled once, then dropped.
        tokio::select! {
            biased;
            _ = tokens.settle(&target) => panic!("nothing was fetched yet"),
            () = std::future::ready(()) => {}
        }
        endpoint.next().await;
        assert_eq!(settled(&tokens, &target).await, "t-0");
        assert!(endpoint.asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_identity_s_token_is_not_for_who_lacks_its_secret() {
        let mut endpoint = Endpoint::start(|turn| match turn {
            0 => granted(0, 3600),
            _ => (
                401,
                r#"{"error":"invalid_client","error_description":"no s-2 here"}"#.to_owned(),
            ),
        })
        .await;
        let tokens = tokens();
        assert_eq!(settled(&tokens, &endpoint.target("s-1")).await, "t-0");
        let error = tokens.settle(&endpoint.target("s-2")).await.unwrap_err();
        assert_eq!(error.status(), 401);
        assert!(
            error
                .message()
                .contains("invalid_client: no [redacted] here"),
            "{error}"
        );
        assert!(endpoint.next().await.ends_with("s-1") && endpoint.next().await.ends_with("s-2"));
    }

    #[tokio::test]
    async fn a_token_is_refreshed_while_the_old_one_serves() {
        let mut endpoint = Endpoint::start(|turn| match turn {
            0 => granted(0, 2),
            _ => granted(turn, 3600),
        })
        .await;
        let (tokens, target) = (tokens(), endpoint.target("s-1"));
        assert_eq!(settled(&tokens, &target).await, "t-0");
        endpoint.next().await;
        // Used once more, so that it is worth a refresh, and served without a fetch.
        assert_eq!(settled(&tokens, &target).await, "t-0");
        assert!(endpoint.asked.try_recv().is_err());
        endpoint.next().await;
        // The second token is stored as soon as its answer is read.
        while settled(&tokens, &target).await == "t-0" {
            tokio::task::yield_now().await;
        }
        assert_eq!(settled(&tokens, &target).await, "t-1");
    }

    #[tokio::test]
    async fn a_failed_refresh_keeps_the_old_token_until_its_end() {
        let mut endpoint = Endpoint::start(|turn| match turn {
            0 => granted(0, 2),
            1 | 2 => (503, String::new()),
            _ => granted(turn, 3600),
        })
        .await;
        let (tokens, target) = (tokens(), endpoint.target("s-1"));
        settled(&tokens, &target).await;
        endpoint.next().await;
        settled(&tokens, &target).await;
        endpoint.next().await;
        assert_eq!(settled(&tokens, &target).await, "t-0");
        // The one at the old token's end fails too: that is told.
        endpoint.next().await;
        while tokens.settle(&target).await.is_ok_and(|token| {
            token.is_some_and(|token| token.token().secrets()[0].expose() == "t-0")
        }) {
            tokio::task::yield_now().await;
        }
        assert_eq!(settled(&tokens, &target).await, "t-3");
    }

    #[tokio::test]
    async fn a_refused_token_is_let_go_and_not_again_at_once() {
        let mut endpoint = Endpoint::start(|turn| granted(turn, 3600)).await;
        let (tokens, target) = (tokens(), endpoint.target("s-1"));
        let first = tokens.settle(&target).await.unwrap().unwrap();
        endpoint.next().await;
        first.refuse();
        assert_eq!(settled(&tokens, &target).await, "t-1");
        endpoint.next().await;
        // Its late word does not count against the second.
        first.refuse();
        let second = tokens.settle(&target).await.unwrap().unwrap();
        second.refuse();
        for _ in 0..100 {
            assert_eq!(settled(&tokens, &target).await, "t-1");
        }
        assert!(endpoint.asked.try_recv().is_err());
        let later = Instant::now() + FLOOR;
        let Lease::Coming(round) = tokens.lease(target.grant().unwrap(), later) else {
            panic!("a refused token")
        };
        wait(round).await.unwrap();
        assert_eq!(settled(&tokens, &target).await, "t-2");
        endpoint.next().await;
        assert!(endpoint.asked.try_recv().is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_storm_of_refusals_fetches_once() {
        let mut endpoint = Endpoint::start(|turn| granted(turn, 3600)).await;
        let (tokens, target) = (tokens(), endpoint.target("s-1"));
        settled(&tokens, &target).await;
        let all: Vec<_> = (0..1000)
            .map(|_| {
                let (tokens, target) = (tokens.clone(), target.clone());
                tokio::spawn(async move {
                    let token = tokens.settle(&target).await.unwrap().unwrap();
                    token.refuse();
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        assert_eq!(settled(&tokens, &target).await, "t-1");
        endpoint.next().await;
        endpoint.next().await;
        assert!(endpoint.asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn failures_are_told_and_not_kept() {
        for (answer, status) in [
            ((400, r#"{"error":"invalid_grant"}"#.to_owned()), 401),
            ((403, "<html>".to_owned()), 403),
            ((302, String::new()), 502),
            ((503, String::new()), 503),
            ((200, "no JSON".to_owned()), 502),
            (
                (200, r#"{"access_token":"t","expires_in":0}"#.to_owned()),
                502,
            ),
            ((200, "x".repeat(1 << 20)), 502),
        ] {
            let first = answer.clone();
            let endpoint = Endpoint::start(move |turn| match turn {
                0 => first.clone(),
                _ => granted(turn, 3600),
            })
            .await;
            let (tokens, target) = (tokens(), endpoint.target("s-1"));
            let error = tokens.settle(&target).await.unwrap_err();
            assert_eq!(error.status(), status, "{error}");
            assert_eq!(settled(&tokens, &target).await, "t-1");
        }
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let identity = Identity::managed(None).unwrap();
        let base = Base::try_new(&base, "base_url").unwrap();
        let target = target(Credential::Azure(Arc::new(identity.at(base))));
        let error = tokens().settle(&target).await.unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.kind()),
            (502, Kind::Connect)
        );
    }

    #[tokio::test]
    async fn the_metadata_service_is_asked_without_a_body() {
        let mut endpoint = Endpoint::start(|turn| granted(turn, 3600)).await;
        let identity = Identity::managed(None).unwrap().at(endpoint.base.clone());
        let target = target(Credential::Azure(Arc::new(identity)));
        assert_eq!(settled(&tokens(), &target).await, "t-0");
        let request = endpoint.next().await.to_ascii_lowercase();
        assert!(
            request.starts_with(
                "get /metadata/identity/oauth2/token?api-version=2018-02-01&resource="
            )
        );
        assert!(request.contains("\r\nmetadata: true\r\n") && !request.contains("content-length"));
    }

    #[tokio::test]
    async fn keys_need_no_token_and_tokens_are_bounded() {
        let tokens = tokens();
        let key = Secret::try_new("sk-1").map(Credential::Key);
        assert!(
            tokens
                .settle(&target(key.unwrap()))
                .await
                .unwrap()
                .is_none()
        );
        let endpoint = Endpoint::start(|turn| granted(turn, 3600)).await;
        for turn in 0..MAX_TOKENS + 10 {
            let grant = endpoint.target(&format!("s-{turn}")).grant().unwrap();
            let _ = tokens.lease(grant, Instant::now());
        }
        assert_eq!(tokens.0.slots().len(), MAX_TOKENS);
    }

    #[test]
    fn a_refresh_comes_before_the_end() {
        let second = Duration::from_secs(1);
        for (lifetime, draw, after) in [
            (3600, 0, 3300),
            (3600, u32::MAX, 3150),
            (86_400, 0, 86_100),
            (80, 0, 60),
            (80, u32::MAX, 50),
            (0, u32::MAX, 0),
        ] {
            assert_eq!(refresh_after(second * lifetime, draw), second * after);
        }
        assert_eq!(retry_after(second, u32::MAX), second);
        assert_eq!(retry_after(second * 60, u32::MAX), 2 * RETRY);
    }
}
