-- Open invoices by customer, oldest first.
CREATE TABLE IF NOT EXISTS invoice (
    id          INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    issued_on   DATE NOT NULL,
    paid_on     DATE,
    amount      NUMERIC(10, 2) NOT NULL CHECK (amount > 0)
);

CREATE INDEX IF NOT EXISTS invoice_open ON invoice (customer_id) WHERE paid_on IS NULL;

SELECT c.name, COUNT(*) AS invoices, SUM(i.amount) AS total, MIN(i.issued_on) AS oldest
FROM invoice AS i
JOIN customer AS c ON c.id = i.customer_id
WHERE i.paid_on IS NULL AND i.issued_on < CURRENT_DATE - INTERVAL '30 days'
GROUP BY c.name
HAVING SUM(i.amount) > 100
ORDER BY oldest, total DESC;
