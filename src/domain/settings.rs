//! How a sale's settings travel to its lanes: part of the bytes of a grant, which `lua/grant.lua` reads.

use super::bytes::{Malformed, Reader, put_uint};
use super::sale::{LaneSettings, SaleState};

/// 1 state, 4 each: limit, rate, burst, hold, longest hold; 6 end; 4 the most that may be undurable, where there is one.
pub(super) fn put_settings(out: &mut Vec<u8>, s: &LaneSettings) {
    out.push(match s.state {
        SaleState::Live => 1,
        SaleState::Paused => 2,
        SaleState::Frozen => 3,
        SaleState::Ended => 4,
        SaleState::Draft | SaleState::Scheduled => 5,
    });
    for value in [s.per_user_limit, s.rate_milli, s.rate_burst, s.hold_ms, s.hold_max_ms] {
        put_uint(out, value.into(), 4);
    }
    put_uint(out, s.ends_at_ms, 6);
    // Left out where there is no bound: gateways of before know no such field.
    if s.undurable_max > 0 {
        put_uint(out, s.undurable_max.into(), 4);
    }
}

/// The reverse of [`put_settings`].
///
/// # Errors
/// The state is none that we know, or bytes are missing.
pub(super) fn read_settings(r: &mut Reader<'_>) -> Result<LaneSettings, Malformed> {
    let state = match r.byte()? {
        1 => SaleState::Live,
        2 => SaleState::Paused,
        3 => SaleState::Frozen,
        4 => SaleState::Ended,
        5 => SaleState::Scheduled,
        _ => return Err(Malformed),
    };
    Ok(LaneSettings {
        state,
        per_user_limit: r.uint32(4)?,
        rate_milli: r.uint32(4)?,
        rate_burst: r.uint32(4)?,
        hold_ms: r.uint32(4)?,
        hold_max_ms: r.uint32(4)?,
        ends_at_ms: r.uint(6)?,
        undurable_max: if r.is_empty() { 0 } else { r.uint32(4)? },
    })
}
