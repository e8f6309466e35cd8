//! The integration tests: one program, real servers.

mod crowd;
mod dev;
mod events;
mod faults;
mod flash_grant;
mod flash_lane;
mod flash_lost;
mod flash_model;
mod flash_queue;
mod flash_random;
mod flash_rate;
mod flash_reserve;
mod flash_restart;
mod flash_shadow;
mod flash_sold_out;
mod http_admin;
mod http_endings;
mod http_frame;
mod http_undurable;
mod k6;
mod ledger_catalogue;
mod ledger_endings;
mod ledger_expiry;
mod ledger_pipeline;
mod ledger_take;
mod ledger_upkeep;
mod reads;
mod reconciliation;
mod sale_life;
mod story_bad_input;
mod story_carts;
mod story_engine;
mod story_expiry;
mod story_keys;
mod story_noise;
mod story_operations;
mod story_places;
mod story_refusals;
mod story_rescue;
mod story_reserve;
mod support {
    //! What the tests share.
    pub(crate) mod buy;
    pub(crate) mod buyers;
    pub(crate) mod door;
    pub(crate) mod flash;
    pub(crate) mod gateway;
    pub(crate) mod interval;
    pub(crate) mod ledger;
    pub(crate) mod proxy;
    pub(crate) mod road;
    pub(crate) mod servers;
    pub(crate) mod shop;
    pub(crate) mod socket;
    pub(crate) mod web;
}
mod verify;
