-- The ledger. Every write of a sale locks its row in `cursors` first. Times come from Redis's clock.

CREATE TABLE sales (
    sale        text PRIMARY KEY CHECK (sale ~ '^[a-z0-9-]{1,64}$'),
    -- deleted and archived rows stay: names are never reused
    state       text NOT NULL CHECK (state IN ('draft', 'open', 'paused', 'closed', 'archived', 'deleted')),
    opens_at    timestamptz,
    closes_at   timestamptz,
    per_buyer   integer NOT NULL CHECK (per_buyer >= 0),  -- units; 0 = no limit
    hold_ms     integer NOT NULL CHECK (hold_ms > 0),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- How far the ledger has applied the sale's outbox: event id <epoch>-<n>. Moved in the transaction that applies.
CREATE TABLE cursors (
    sale        text PRIMARY KEY REFERENCES sales,
    epoch       bigint NOT NULL,
    n           bigint NOT NULL,
    moved_at    timestamptz NOT NULL DEFAULT now()
);

-- No bug above can oversell: the CHECKs are the last word.
CREATE TABLE inventory (
    sale        text NOT NULL REFERENCES sales,
    sku         text NOT NULL,
    tracked     boolean NOT NULL,
    paused      boolean NOT NULL DEFAULT false,
    capacity    integer NOT NULL CHECK (capacity >= 0),   -- units authorised by the merchant
    granted     integer NOT NULL DEFAULT 0,               -- units Redis has been given of it
    held        integer NOT NULL DEFAULT 0 CHECK (held >= 0),
    sold        integer NOT NULL DEFAULT 0 CHECK (sold >= 0),
    PRIMARY KEY (sale, sku),
    CONSTRAINT never_oversold CHECK (NOT tracked OR held + sold <= granted),
    CONSTRAINT never_overgranted CHECK (granted <= capacity)
);

-- Numbered per sale; one grant may carry many SKUs. Written before Redis hears of it, so a crash is repaired by repeating.
CREATE TABLE grants (
    sale        text NOT NULL,
    number      integer NOT NULL CHECK (number > 0),
    sku         text NOT NULL,
    delta       integer NOT NULL,                         -- units; negative: taken back from what is available
    actor       text NOT NULL,
    reason      text NOT NULL,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    applied     boolean NOT NULL DEFAULT false,           -- its event has reached the ledger
    PRIMARY KEY (sale, number, sku),
    FOREIGN KEY (sale, sku) REFERENCES inventory
);
CREATE INDEX grants_pending ON grants (sale, number) WHERE NOT applied;

CREATE TABLE reservations (
    sale            text NOT NULL,
    id              text NOT NULL,
    buyer           text NOT NULL,
    idempotency_key text NOT NULL,
    reference       text NOT NULL,
    fingerprint     text NOT NULL,                        -- the summed, sorted items: "sku quantity sku quantity …"
    state           text NOT NULL CHECK (state IN ('held', 'sold', 'released', 'expired')),
    late            boolean NOT NULL DEFAULT false,
    payment         text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (sale, id)
);

CREATE TABLE reservation_items (
    sale        text NOT NULL,
    id          text NOT NULL,
    sku         text NOT NULL,
    quantity    integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (sale, id, sku)
);

-- Append-only: every change of every counter, units. available changes by granted - held - sold.
CREATE TABLE movements (
    sale        text NOT NULL,
    epoch       bigint NOT NULL,
    n           bigint NOT NULL,
    sku         text NOT NULL,
    granted     integer NOT NULL DEFAULT 0,
    held        integer NOT NULL DEFAULT 0,
    sold        integer NOT NULL DEFAULT 0,
    actor       text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (sale, epoch, n, sku)
);

-- Events that could not be applied, and their later dependants (same reservation).
CREATE TABLE quarantine (
    sale            text NOT NULL,
    epoch           bigint NOT NULL,
    n               bigint NOT NULL,
    event           bytea NOT NULL,
    reason          text NOT NULL,
    reservation     text,
    skus            text[] NOT NULL,
    paused          boolean NOT NULL DEFAULT false,       -- its SKUs (or, not knowing them, the sale) are paused in Redis
    quarantined_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sale, epoch, n)
);

-- Every comparison of Redis's own counters with the ledger's at the same position.
CREATE TABLE checkpoints (
    sale        text NOT NULL,
    epoch       bigint NOT NULL,
    n           bigint NOT NULL,
    at          timestamptz NOT NULL,
    skus        integer NOT NULL,                         -- compared
    drift       jsonb NOT NULL,                           -- [{sku, redis: {...}, ledger: {...}, unproven}], empty: equal
    PRIMARY KEY (sale, epoch, n)
);

CREATE TABLE audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sale        text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL,
    action      text NOT NULL,
    detail      jsonb NOT NULL
);
CREATE INDEX audit_by_sale ON audit (sale, id);
