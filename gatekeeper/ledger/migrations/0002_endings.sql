-- How holds end: every payment ever sent, and the sum that checkpoints compare with the buyers' counts in Redis.

CREATE TABLE payments (
    sale        text NOT NULL,
    id          text NOT NULL,                            -- the reservation
    payment     text NOT NULL,
    state       text NOT NULL CHECK (state IN ('sold', 'refund_due', 'refunded', 'rejected')),
    refund      text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    PRIMARY KEY (sale, id, payment),
    CONSTRAINT refunded_by_a_refund CHECK ((state = 'refunded') = (refund <> ''))
);
CREATE INDEX payments_due ON payments (sale, created_at) WHERE state = 'refund_due';

ALTER TABLE cursors ADD COLUMN units bigint NOT NULL DEFAULT 0 CHECK (units >= 0);  -- held or sold, of all SKUs together
UPDATE cursors AS c SET units = COALESCE((SELECT sum(held + sold) FROM inventory AS i WHERE i.sale = c.sale), 0);

ALTER TABLE checkpoints ADD COLUMN stopped boolean NOT NULL DEFAULT true;  -- false: Redis still sells what it has too much of
CREATE INDEX checkpoints_unstopped ON checkpoints (sale) WHERE NOT stopped;

-- The schedule of a sale's checkpoints. Not in `cursors`, which a busy drain keeps locked.
CREATE TABLE schedules (
    sale        text PRIMARY KEY REFERENCES sales,
    epoch       bigint NOT NULL DEFAULT 1,                -- the position of the last checkpoint asked for
    n           bigint NOT NULL DEFAULT -1,
    sku         text NOT NULL DEFAULT '',                 -- where the rotation goes on; '': it has seen every SKU
    claimed_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO schedules (sale) SELECT sale FROM cursors;
