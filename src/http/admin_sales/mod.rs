//! Sales, as operators make and steer them. A call answers when what it did is in force on every gateway.

mod ask;
mod body;
mod force;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use self::ask::{ActBody, CreateBody, PatchBody, ends_too_early, hold_too_long};
use self::body::{SaleBody, show};
pub(super) use self::force::{IN_FORCE_MAX, late};

use self::force::in_force;
use super::Gateway;
use super::author::{Author, answer, key_reused, not_free, unknown_location, unknown_sku};
use super::code::Code;
use super::json::{Json, OptionalJson};
use super::params::Path;
use super::problem::Problem;
use crate::domain::id::SaleId;
use crate::domain::sale::{SaleAction, SaleState};
use crate::domain::text::Text;
use crate::ledger::once::Key;
use crate::ledger::sale::{Acted, Created};
use crate::ledger::sale_life::ActAnswer;
use crate::ledger::sale_patch::{Patched, SalePatch};
use crate::recall::{Recall, Recalled};

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(create_sale, list_sales))
        .routes(routes!(get_sale, patch_sale))
        .routes(routes!(act_on_sale))
}

/// All sales.
#[derive(Serialize, utoipa::ToSchema)]
struct SalesBody {
    /// Oldest first.
    sales: Vec<SaleBody>,
}

/// Makes a sale and sets its units aside.
#[utoipa::path(post, path = "/admin/sales", tag = "Admin", request_body = CreateBody, responses(
    (status = 201, description = "`scheduled`; `draft` without `startsAt`; live where that is past", body = SaleBody),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
    (status = 409, description = "`INSUFFICIENT_STOCK`, `SALE_EXISTS`"),
))]
async fn create_sale(
    State(gateway): State<Arc<Gateway>>,
    author: Author,
    Json(body): Json<CreateBody>,
) -> Result<Response, Problem> {
    let new = body.read()?;
    let key = author.key("sale", "", &body)?;
    let acted = match gateway.ledger.create_sale(&new, &author.by(), key.as_ref()).await? {
        Created::Done(acted) => acted,
        Created::Exists => {
            return Err(Problem::new(
                Code::SaleExists,
                "the id is taken, or the item has a sale that has not ended",
            ));
        }
        Created::KeyReused => return Err(key_reused()),
        Created::UnknownSku => return Err(unknown_sku(new.item.sku.as_str())),
        Created::UnknownLocation => return Err(unknown_location(new.item.location.as_str())),
        Created::EndsTooEarly => return Err(ends_too_early()),
        Created::TooManyBuckets { lanes } => {
            return Err(Problem::invalid(
                "buckets",
                format!("must be at most {lanes}, the number of lanes"),
            ));
        }
        Created::Insufficient(found) => return Err(not_free(new.allocation, &found)),
    };
    log(&author, &acted, "create", None);
    tell(&gateway, StatusCode::CREATED, acted).await
}

/// All sales, oldest first.
#[utoipa::path(get, path = "/admin/sales", tag = "Admin", responses((status = 200, body = SalesBody)))]
async fn list_sales(State(gateway): State<Arc<Gateway>>) -> Result<Json<SalesBody>, Problem> {
    let mut sales = Vec::new();
    for sale in gateway.ledger.sales().await? {
        sales.push(show(&gateway, &sale).await?);
    }
    Ok(Json(SalesBody { sales }))
}

/// A sale.
#[utoipa::path(get, path = "/admin/sales/{saleId}", tag = "Admin", params(("saleId" = String, Path)), responses(
    (status = 200, body = SaleBody),
    (status = 404, description = "`UNKNOWN_SALE`"),
))]
async fn get_sale(State(gateway): State<Arc<Gateway>>, Path(id): Path<SaleId>) -> Result<Json<SaleBody>, Problem> {
    let sale = gateway.ledger.sale(&id).await?.ok_or_else(|| unknown(&id))?;
    Ok(Json(show(&gateway, &sale).await?))
}

/// Starts, pauses, resumes, freezes, unfreezes or stops a sale.
#[utoipa::path(post, path = "/admin/sales/{saleId}/{action}", tag = "Admin",
    params(("saleId" = String, Path), ("action" = String, Path,
        description = "`start`, `pause`, `resume`, `freeze`, `unfreeze` or `stop`")),
    request_body = Option<ActBody>, responses(
        (status = 200, description = "In force; after `stop`, every unsold unit is back", body = SaleBody),
        (status = 404, description = "`UNKNOWN_SALE`"),
        (status = 409, description = "`INVALID_SALE_STATE`; of an unfreeze with `reports` in which findings wait"),
))]
async fn act_on_sale(
    State(gateway): State<Arc<Gateway>>,
    Path((id, action)): Path<(SaleId, String)>,
    author: Author,
    OptionalJson(body): OptionalJson<ActBody>,
) -> Result<Response, Problem> {
    let Some(action) = SaleAction::parse(&action) else {
        return Err(Problem::new(Code::NotFound, format!("a sale has no action {action}")));
    };
    let key = author.key(&format!("sale {}", action.as_str()), id.as_str(), &body)?;
    let acted = match gateway.ledger.act(&id, action, &author.by(), key.as_ref()).await? {
        ActAnswer::Done(acted) => *acted,
        ActAnswer::Unknown => return Err(unknown(&id)),
        ActAnswer::Invalid(state) => return Err(invalid_state(action.as_str(), state)),
        ActAnswer::Unreconciled(reports) => return Err(unreconciled(&reports)),
        ActAnswer::KeyReused => return Err(key_reused()),
    };
    log(&author, &acted, action.as_str(), body.reason.as_ref());
    tell(&gateway, StatusCode::OK, acted).await
}

/// Changes a sale.
#[utoipa::path(patch, path = "/admin/sales/{saleId}", tag = "Admin", params(("saleId" = String, Path)),
    request_body = PatchBody, responses(
        (status = 200, description = "In force", body = SaleBody),
        (status = 404, description = "`UNKNOWN_SALE`"),
        (status = 409, description = "`INSUFFICIENT_STOCK`: below what is reserved and sold, or above what is in stock; \
            `INVALID_SALE_STATE`"),
))]
async fn patch_sale(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<SaleId>,
    author: Author,
    Json(body): Json<PatchBody>,
) -> Result<Response, Problem> {
    let patch = body.read()?;
    let key = author.key("sale patch", id.as_str(), &body)?;
    let acted = patched(&gateway, &id, &patch, &author, key.as_ref()).await?;
    log(&author, &acted, "patch", None);
    tell(&gateway, StatusCode::OK, acted).await
}

/// Patches, taking units back first where the sale must give some.
async fn patched(
    gateway: &Gateway,
    id: &SaleId,
    patch: &SalePatch,
    author: &Author,
    key: Option<&Key>,
) -> Result<Acted, Problem> {
    let mut recall = Recall::within(IN_FORCE_MAX);
    loop {
        match gateway.ledger.patch_sale(id, patch, &author.by(), key).await? {
            Patched::Done(acted) => return Ok(acted),
            Patched::Unknown => return Err(unknown(id)),
            Patched::Invalid(state) => return Err(invalid_state("patch", state)),
            Patched::HoldTooLong(max_ms) => return Err(hold_too_long(max_ms / 1_000)),
            Patched::EndsTooEarly => return Err(ends_too_early()),
            Patched::Insufficient { added, found } => return Err(not_free(added, &found)),
            Patched::KeyReused => return Err(key_reused()),
            Patched::Short => {}
        }
        let allocation = patch.allocation.unwrap_or(0);
        match recall
            .take_back(&gateway.ledger, &gateway.flash, id, allocation)
            .await?
        {
            Recalled::Back => {}
            Recalled::Held(held) => return Err(held_by_buyers(allocation, held)),
            Recalled::Late => {
                return Err(late(
                    gateway,
                    "units could not be taken back in time; the allocation is unchanged",
                ));
            }
        }
    }
}

/// Answers when the change is in force.
async fn tell(gateway: &Gateway, status: StatusCode, acted: Acted) -> Result<Response, Problem> {
    in_force(gateway, &acted).await?;
    let sale = gateway.ledger.sale(&acted.sale.id).await?.unwrap_or(acted.sale);
    Ok(answer((status, Json(show(gateway, &sale).await?)), acted.replayed))
}

fn log(author: &Author, acted: &Acted, action: &str, reason: Option<&Text<255>>) {
    tracing::info!(
        trace = %author.trace, operator = author.operator, sale = %acted.sale.id, action,
        reason = reason.map(Text::as_str), state = acted.sale.state.as_str(), replayed = acted.replayed,
        "an operator steered a sale"
    );
}

fn unknown(id: &SaleId) -> Problem {
    Problem::new(Code::UnknownSale, format!("there is no sale {id}")).with("saleId", id.as_str())
}

fn invalid_state(action: &str, state: SaleState) -> Problem {
    let state = state.as_str();
    Problem::new(
        Code::InvalidSaleState,
        format!("{action} does not fit a sale that is {state}"),
    )
    .with("state", state)
}

fn unreconciled(reports: &[Uuid]) -> Problem {
    let reports: Vec<String> = reports.iter().map(Uuid::to_string).collect();
    let detail = "findings of the sale wait for a person: repair or close them (`flashgate reconcile`), then unfreeze";
    Problem::new(Code::InvalidSaleState, detail)
        .with("state", SaleState::Frozen.as_str())
        .with("reports", reports)
}

fn held_by_buyers(allocation: i64, held: i64) -> Problem {
    Problem::new(
        Code::InsufficientStock,
        format!(
            "the sale can't give the units back that an allocation of {allocation} asks for: buyers hold or bought them"
        ),
    )
    .with("held", held)
}
