module github.com/pollcast/pollcast/services/pollcast

go 1.26.0

require (
	github.com/pollcast/pollcast/pkg v0.0.0
	github.com/pollcast/pollcast/services/gateway v0.0.0
	github.com/pollcast/pollcast/services/hostrpc v0.0.0
	github.com/pollcast/pollcast/services/poller v0.0.0
)

replace github.com/pollcast/pollcast/pkg => ../../pkg

replace github.com/pollcast/pollcast/services/hostrpc => ../hostrpc

replace github.com/pollcast/pollcast/services/poller => ../poller

replace github.com/pollcast/pollcast/services/gateway => ../gateway
