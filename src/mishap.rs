//! A fault of the gateway's own in the middle of a request: that one is answered with 500, and nobody else hears of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;

use crate::error::{Error, Kind};

/// `work`; what panics in it is an error of this request's. What it had in its hands is dropped, as for a client that leaves:
/// every lock is taken over from whoever broke off in it.
///
/// No `async fn`, whose future would have room for `work` twice: kilobytes, for as long as a stream of the conductor's lasts.
pub fn contain<T>(
    work: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    let contained = AssertUnwindSafe(work).catch_unwind();
    contained.map(|done| done.unwrap_or_else(|_| Err(broken())))
}

/// The same of work that waits for nothing.
pub fn contain_now<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| broken())
}

fn broken() -> Error {
    Error::new(Kind::Internal, "The gateway failed on this request.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_one_request_s_500() {
        let out_of_place: Vec<u8> = Vec::new();
        let failing = async {
            tokio::task::yield_now().await;
            Ok(out_of_place[out_of_place.len()])
        };
        let error = contain(failing).await.unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.kind()),
            (500, Kind::Internal)
        );
        assert_eq!(contain(async { Ok(7) }).await.unwrap(), 7);
        let error = contain_now(|| out_of_place[out_of_place.len()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert_eq!(contain_now(|| 7).unwrap(), 7);
    }
}
