module github.com/dcrouter/dcrouter/internal/bench

go 1.26.0

require (
	github.com/dcrouter/dcrouter v0.0.0
	github.com/miekg/dns v1.1.72
	layeh.com/radius v0.0.0-20231213012653-1006025d24f8
)

require (
	github.com/gaissmai/bart v0.30.0 // indirect
	github.com/klauspost/compress v1.20.4 // indirect
	github.com/pires/go-proxyproto v0.15.0 // indirect
	github.com/quic-go/qpack v0.6.0 // indirect
	github.com/quic-go/quic-go v0.65.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/tools v0.51.0 // indirect
)

replace github.com/dcrouter/dcrouter => ../..
