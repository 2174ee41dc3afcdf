module github.com/pollcast/pollcast/services/hostrpc

go 1.26.0

require github.com/pollcast/pollcast/pkg v0.0.0

require (
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/shirou/gopsutil/v4 v4.26.10 // indirect
	go.uber.org/goleak v1.3.0 // indirect
)

replace github.com/pollcast/pollcast/pkg => ../../pkg
