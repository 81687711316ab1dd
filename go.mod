module github.com/dcrouter/dcrouter

go 1.26
