\set noise random(0, 4611686018427387903)
BEGIN;
INSERT INTO signals VALUES ((lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000000)::bigint), 16, '0') || lpad(to_hex(:noise::bigint), 16, '0'))::uuid, 'peers 00000000', 2, 0, '{"note":"@NOTE@"}', NULL, '0190a000-0000-7000-8000-000000000000', now(), now(), 1);
INSERT INTO outbox VALUES ((lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000000)::bigint), 16, '0') || lpad(to_hex(:noise::bigint), 16, '0'))::uuid, 'signals', '0190a000-0000-7000-8000-000000000000', 'created', '@DOCUMENT@');
COMMIT;
