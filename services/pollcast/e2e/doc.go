// Package e2e tests the product from outside: the real binaries as processes, a
// real NATS server beside them, real sockets, the stock `nats` command, and a
// WebSocket client that shares no code with Pollcast. It holds tests only.
//
//	upstream (in the test, or hostrpc, or aria2) ◄── poller ──► nats-server ──► gateway ──► client
//
// Reading order: main_test.go (builds the binaries), process_test.go,
// services_test.go (starts them), upstream_test.go (what misbehaves),
// client_test.go (who looks); then the tests, one file per property.
//
// The oracle is a test of its own: oracle_world_test.go starts everything and
// says what it found, oracle_faults_test.go breaks it, oracle_witness_test.go
// (and oracle_sdk_test.go) are the clients, and oracle_judge_test.go holds their
// diaries against oracle_ledger_test.go, what the stream has stored.
package e2e
