//! A rate limit per address, on governor's GCRA, with the headers that tell it.
//!
//! The clock is monotonic: governor's default one can jump back and deny falsely. The map of addresses is bounded by
//! [`ADDRESSES_MAX`]: past that, addresses not seen before share one of [`SHARED`] limits, so that an attacker with
//! many of them fills no memory and spoils no one else's.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

/// Most addresses with a limit of their own: about 10 MB.
pub(super) const ADDRESSES_MAX: usize = 100_000;
/// How many limits the others share.
pub(super) const SHARED: u64 = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    Shared(u64),
}

type Limiter = RateLimiter<Who, DashMapStateStore<Who>, MonotonicClock, StateInformationMiddleware>;

/// So many requests per second, per address.
#[derive(Debug)]
pub(super) struct Limit {
    policy: &'static str,
    rate: u32,
    burst: u32,
    limiter: Limiter,
    hasher: RandomState,
}

/// What a limit says to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The name of the limit.
    pub(super) policy: &'static str,
    /// Requests per second.
    pub(super) rate: u32,
    /// Where it is refused: how long until one fits.
    pub(super) wait: Option<Duration>,
    burst: u32,
    remaining: u32,
}

impl Limit {
    /// `None` where `rate` is 0, which means no limit; a `burst` of 0 means one second's worth.
    pub(super) fn new(policy: &'static str, rate: u32, burst: u32) -> Option<Self> {
        let rate = NonZeroU32::new(rate)?;
        let burst = NonZeroU32::new(burst).unwrap_or(rate);
        let quota = Quota::per_second(rate).allow_burst(burst);
        Some(Limit {
            policy,
            rate: rate.get(),
            burst: burst.get(),
            limiter: Limiter::new(quota, DashMapStateStore::default(), MonotonicClock),
            hasher: RandomState::new(),
        })
    }

    /// Requests per second.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Counts one request of this address, unless it is refused.
    pub(super) fn judge(&self, address: IpAddr) -> Verdict {
        let (wait, remaining) = match self.limiter.check_key(&self.who(address)) {
            Ok(state) => (None, state.remaining_burst_capacity()),
            Err(not_until) => (Some(not_until.wait_time_from(MonotonicClock.now())), 0),
        };
        Verdict {
            policy: self.policy,
            rate: self.rate,
            wait,
            burst: self.burst,
            remaining,
        }
    }

    /// Forgets addresses whose limit is whole again.
    pub(super) fn upkeep(&self) {
        self.limiter.retain_recent();
        if self.limiter.len() < ADDRESSES_MAX / 10 {
            self.limiter.shrink_to_fit();
        }
    }

    fn who(&self, address: IpAddr) -> Who {
        let address = network_of(address);
        if self.limiter.len() < ADDRESSES_MAX {
            return Who::Address(address);
        }
        Who::Shared(self.hasher.hash_one(address) % SHARED)
    }
}

/// One household has a whole /64 of IPv6 addresses: they count as one.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Verdict {
    /// An item of `RateLimit-Policy`: the quota, and the seconds in which it comes back whole.
    pub(super) fn policy_item(&self) -> String {
        format!(
            "\"{}\";q={};w={}",
            self.policy,
            self.burst,
            self.burst.div_ceil(self.rate)
        )
    }

    /// An item of `RateLimit`: what remains, and the seconds until there is more.
    pub(super) fn state_item(&self) -> String {
        let until = match self.wait {
            Some(wait) => wait.as_millis().div_ceil(1000).max(1),
            None => u128::from((self.burst - self.remaining.min(self.burst)).div_ceil(self.rate)),
        };
        format!("\"{}\";r={};t={until}", self.policy, self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_limit_counts_each_address_apart() {
        assert!(Limit::new("client", 0, 5).is_none());
        let limit = Limit::new("client", 1, 2).expect("a limit");
        let first = limit.judge(ip("1.1.1.1"));
        assert_eq!(first.policy_item(), "\"client\";q=2;w=2");
        assert_eq!(first.state_item(), "\"client\";r=1;t=1");
        assert_eq!(limit.judge(ip("::ffff:1.1.1.1")).wait, None);
        let refused = limit.judge(ip("1.1.1.1"));
        assert!(refused.wait.is_some_and(|wait| wait <= Duration::from_secs(1)));
        assert_eq!(refused.state_item(), "\"client\";r=0;t=1");
        assert_eq!(limit.judge(ip("1.1.1.2")).wait, None);
    }

    #[test]
    fn many_addresses_share_when_the_map_is_full() {
        let limit = Limit::new("client", 1, 1).expect("a limit");
        for n in 0..u128::try_from(ADDRESSES_MAX + 5_000).expect("it fits") {
            limit.judge(IpAddr::V6(Ipv6Addr::from_bits(n << 64)));
        }
        let shared = usize::try_from(SHARED).expect("it fits");
        assert!(limit.limiter.len() <= ADDRESSES_MAX + shared);
        assert_eq!(network_of(ip("2001:db8::1")), network_of(ip("2001:db8::2")));
    }
}
