"""What a script may answer. The words are the scripts' own, and those of HTTP's `code`."""

from enum import StrEnum


class Outcome(StrEnum):
    """One word per answer; a test holds it equal to the `codes:` lines in lua/."""

    OK = "ok"
    # admit, one per purchase
    ADMITTED = "admitted"
    REPLAYED = "replayed"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    SOLD_OUT = "sold_out"
    BUYER_LIMIT = "buyer_limit"
    SALE_NOT_OPEN = "sale_not_open"
    SALE_PAUSED = "sale_paused"
    SKU_PAUSED = "sku_paused"
    SALE_CLOSED = "sale_closed"
    BACKLOG_FULL = "backlog_full"
    UNKNOWN_SKU = "unknown_sku"
    # reads
    UNKNOWN_RESERVATION = "unknown_reservation"
    # confirm, release, settle, discard
    CONFIRMED = "confirmed"
    RELEASED = "released"
    SETTLED = "settled"
    DISCARDED = "discarded"
    PAYMENT_MISMATCH = "payment_mismatch"
    HOLD_EXPIRED = "hold_expired"
    NOT_HELD = "not_held"
    NOTHING_DUE = "nothing_due"
    REFUND_MISMATCH = "refund_mismatch"
    PAYMENT_AMBIGUOUS = "payment_ambiguous"
    # grant
    ALREADY_GRANTED = "already_granted"
    GRANT_GAP = "grant_gap"
    NOT_AVAILABLE = "not_available"
    TOO_LARGE = "too_large"
    TRACKING_FIXED = "tracking_fixed"
    # control
    SALE_EXISTS = "sale_exists"
    LIMIT_NOT_COUNTED = "limit_not_counted"
    NOT_A_DRAFT = "not_a_draft"
    NOT_CLOSED = "not_closed"
    NOT_DRAINED = "not_drained"
    FENCE_CHANGED = "fence_changed"
    # any script, about the whole call; the gate raises these
    UNKNOWN_SALE = "unknown_sale"
    SALE_ARCHIVED = "sale_archived"
    SALE_FENCED = "sale_fenced"


OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}
"""A script's word as it arrives, in bytes → its Outcome."""
