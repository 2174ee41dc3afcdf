module github.com/pollcast/pollcast/services/hostrpc

go 1.26.0

require github.com/pollcast/pollcast/pkg v0.0.0

replace github.com/pollcast/pollcast/pkg => ../../pkg
