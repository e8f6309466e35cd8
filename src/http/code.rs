//! Error codes: what clients switch on, and the only place that knows their status codes.
//!
//! Each code says what the client does next and what the operator does. `retryable` means that the same request, sent
//! again unchanged (after `Retry-After`, with the same idempotency key), may well succeed.

use std::sync::LazyLock;

use axum::http::StatusCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:ident, $retryable:literal, $title:literal;)*) => {
        /// Every code of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All of them, in the order of the contract.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The word in answers and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }

            /// Whether the same request may succeed later, as it is.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Code::$name => $retryable,)* }
            }

            /// A short title for people; never changes from one occurrence to the next.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request can't be read as what the path takes. Client: fix the field named in `field`. Operator: nothing.
    InvalidRequest = "INVALID_REQUEST", BAD_REQUEST, false, "The request is not valid";
    /// The sale limits what a user may take, or how often one may try, and none was named. Client: send `userId`. Operator: nothing.
    UserRequired = "USER_REQUIRED", BAD_REQUEST, false, "The sale needs to know the user";
    /// No credential, or none we know. Client: authenticate. Operator: check the credential's rights.
    Unauthenticated = "UNAUTHENTICATED", UNAUTHORIZED, false, "A credential is needed";
    /// The credential does not reach this far. Client: stop. Operator: grant the scope, if it should.
    Forbidden = "FORBIDDEN", FORBIDDEN, false, "The credential does not allow this";
    /// Who asked may not approve. Client: let another person approve. Operator: the same.
    SamePerson = "SAME_PERSON", FORBIDDEN, false, "Another person has to decide";
    /// Nothing is at this path. Client: check the path. Operator: nothing.
    NotFound = "NOT_FOUND", NOT_FOUND, false, "There is nothing here";
    /// No such SKU. Client: check the id. Operator: `PUT /admin/skus/{skuId}` where it should exist.
    UnknownSku = "UNKNOWN_SKU", NOT_FOUND, false, "The SKU is not known";
    /// No such location, or the SKU does not lie there. Client: check the id. Operator: `PUT` the location.
    UnknownLocation = "UNKNOWN_LOCATION", NOT_FOUND, false, "The location is not known";
    /// No such reservation was ever made. Client: drop the id. Operator: nothing.
    UnknownReservation = "UNKNOWN_RESERVATION", NOT_FOUND, false, "The reservation is not known";
    /// No such sale. Client: check the id. Operator: nothing.
    UnknownSale = "UNKNOWN_SALE", NOT_FOUND, false, "The sale is not known";
    /// No such approval. Client: list them. Operator: nothing.
    UnknownApproval = "UNKNOWN_APPROVAL", NOT_FOUND, false, "The approval is not known";
    /// No such report of a reconciliation. Client: list them. Operator: nothing.
    UnknownReport = "UNKNOWN_REPORT", NOT_FOUND, false, "The report is not known";
    /// No such event. Client: check the id. Operator: nothing.
    UnknownEvent = "UNKNOWN_EVENT", NOT_FOUND, false, "The event is not known";
    /// The path exists, the method does not. Client: use one of `Allow`. Operator: nothing.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED, false, "The path does not take this method";
    /// The body is over 64 KiB. Client: send less. Operator: nothing.
    BodyTooLarge = "BODY_TOO_LARGE", PAYLOAD_TOO_LARGE, false, "The body is too large";
    /// The body is not declared as JSON. Client: send `Content-Type: application/json`. Operator: nothing.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", UNSUPPORTED_MEDIA_TYPE, false, "The body has to be JSON";
    /// The key was used for another request. Client: use a new key for a new request. Operator: nothing.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", UNPROCESSABLE_ENTITY, false, "The idempotency key belongs to another request";

    /// Fewer units are free than were asked for. Client: ask for `available` or give up. Operator: raise the
    /// allocation or receive stock.
    InsufficientStock = "INSUFFICIENT_STOCK", CONFLICT, false, "There are not enough units";
    /// The user would hold and have bought more than the sale allows. Client: ask for less. Operator: nothing.
    UserLimitExceeded = "USER_LIMIT_EXCEEDED", CONFLICT, false, "The user's limit is reached";
    /// The sale does not sell now. Client: come back at `startsAt`, if there is one. Operator: start or resume it.
    SaleNotLive = "SALE_NOT_LIVE", CONFLICT, false, "The sale is not live";
    /// The order holds this item under another key. Client: use `reservationId`. Operator: nothing.
    OrderAlreadyReserved = "ORDER_ALREADY_RESERVED", CONFLICT, false, "The order holds this item already";
    /// Its time was over. Client: refund where `refundRequired`, or reserve anew. Operator: nothing.
    ReservationExpired = "RESERVATION_EXPIRED", CONFLICT, false, "The reservation has expired";
    /// It was given back. Client: reserve anew. Operator: nothing.
    ReservationReleased = "RESERVATION_RELEASED", CONFLICT, false, "The reservation was released";
    /// It was sold. Client: a return, not a release. Operator: nothing.
    ReservationCommitted = "RESERVATION_COMMITTED", CONFLICT, false, "The reservation was committed";
    /// It was accepted and never became durable. Client: reserve anew. Operator: look at the causes being counted.
    ReservationRejected = "RESERVATION_REJECTED", CONFLICT, false, "The reservation was rejected";
    /// The sale is frozen, and deadlines stand still. Client: commit again later. Operator: unfreeze or stop it.
    SaleFrozen = "SALE_FROZEN", CONFLICT, true, "The sale is frozen";
    /// More would come back than was sold. Client: return `returnable`. Operator: nothing.
    ReturnExceedsCommitted = "RETURN_EXCEEDS_COMMITTED", CONFLICT, false, "More is returned than was sold";
    /// Only what was sold can come back. Client: release instead. Operator: nothing.
    NotCommitted = "NOT_COMMITTED", CONFLICT, false, "The reservation was not committed";
    /// The location is closed and takes no units. Client: choose another. Operator: `PUT` it `active` again.
    LocationInactive = "LOCATION_INACTIVE", CONFLICT, false, "The location is closed";
    /// It was approved, rejected or expired before. Client: read its `status`; ask anew. Operator: nothing.
    ApprovalClosed = "APPROVAL_CLOSED", CONFLICT, false, "The approval is closed";
    /// A newer count was applied. Client: drop the old one. Operator: check the feed's clock.
    StaleCount = "STALE_COUNT", CONFLICT, false, "A newer count was applied";
    /// Only adjustments can be undone, no undo, and none that a count has put right. Client: adjust or count instead. Operator: the same.
    NotUndoable = "NOT_UNDOABLE", CONFLICT, false, "The event can't be undone";
    /// The id is taken, or the item has a sale that has not ended. Client: use another id. Operator: stop the other.
    SaleExists = "SALE_EXISTS", CONFLICT, false, "There is such a sale";
    /// The sale can't go there from its `state`. Client: read the sale. Operator: nothing.
    InvalidSaleState = "INVALID_SALE_STATE", CONFLICT, false, "The sale's state does not allow this";

    /// Too many requests from here. Client: wait for `Retry-After`. Operator: raise the limit, if it is too low.
    RateLimited = "RATE_LIMITED", TOO_MANY_REQUESTS, true, "Too many requests";
    /// More requests are in flight than can be served. Client: back off, then retry. Operator: add gateways.
    Overloaded = "OVERLOADED", SERVICE_UNAVAILABLE, true, "The gateway is overloaded";
    /// Redis can't be asked. Client: retry with the same key. Operator: see `/readyz`; recovery is automatic.
    StockUnavailable = "STOCK_UNAVAILABLE", SERVICE_UNAVAILABLE, true, "Live stock can't be reached";
    /// Postgres can't be asked, or is behind. Client: retry with the same key. Operator: see `/readyz`.
    LedgerUnavailable = "LEDGER_UNAVAILABLE", SERVICE_UNAVAILABLE, true, "The ledger can't be reached";
    /// Too many reads while Redis is away. Client: back off. Operator: bring Redis back, or add a read replica.
    ReadsLimited = "READS_LIMITED", SERVICE_UNAVAILABLE, true, "Reads are limited";
    /// A defect, or something nobody foresaw. Client: retry with the same key, once. Operator: search the log for
    /// the trace id and report it.
    Internal = "INTERNAL", INTERNAL_SERVER_ERROR, true, "Something went wrong here";
}

impl Code {
    /// What tells the codes apart in `type`: a URN, because clients switch on `code` and there is no page to fetch.
    #[must_use]
    pub fn type_uri(self) -> &'static str {
        static URIS: LazyLock<Vec<String>> = LazyLock::new(|| {
            let uri = |code: &Code| {
                let word = code.as_str().to_ascii_lowercase().replace('_', "-");
                format!("urn:flashgate:problem:{word}")
            };
            Code::ALL.iter().map(uri).collect()
        });
        // `ALL` lists them as they are declared.
        &URIS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_type_of_its_own() {
        assert_eq!(Code::SaleNotLive.type_uri(), "urn:flashgate:problem:sale-not-live");
        for code in Code::ALL {
            let word = code.type_uri().trim_start_matches("urn:flashgate:problem:");
            assert_eq!(word.to_ascii_uppercase().replace('-', "_"), code.as_str());
        }
    }

    #[test]
    fn what_may_be_retried_says_when() {
        for code in Code::ALL {
            let asks_for_patience = matches!(
                code.status(),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR
            );
            assert_eq!(
                code.is_retryable(),
                asks_for_patience || *code == Code::SaleFrozen,
                "{code:?}"
            );
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }
}
