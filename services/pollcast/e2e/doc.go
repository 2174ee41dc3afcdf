// Package e2e tests the product from outside: the real binaries as processes, a
// real NATS server beside them, real sockets, the `nats` command, and a WebSocket
// client that shares no code with Pollcast. It holds tests only.
//
//	upstream ◄── poller ──► nats-server ──► gateway ──► client
//	(in the test, or hostrpc, or aria2)
//
// Reading order: main_test.go (builds the binaries), process_test.go,
// services_test.go (starts them), upstream_test.go (a bad upstream),
// client_test.go (the client); then the tests, one file per property.
//
// The oracle is a test that compares everything that many clients received with
// everything that the stream stored, while processes and networks fail:
//
//	oracle_world_test.go    starts everything and reports the result
//	oracle_faults_test.go   breaks and repairs processes; oracle_routes_test.go: networks
//	oracle_publish_test.go  the load
//	oracle_witness_test.go  the clients, which record what they receive;
//	                        oracle_wire_test.go: their transports, oracle_sdk_test.go: the SDK
//	oracle_ledger_test.go   what the stream stored
//	oracle_judge_test.go    compares a client's record with the ledger
package e2e
