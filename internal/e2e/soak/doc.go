// Package soak runs a gateway with everything on under load for as long as SOAK
// says ("20m"), by default half a minute, while its peers are killed at random. It
// counts what goes wrong, and whether anything grows. SOAK_SEED is printed, and with
// it the same faults come in the same order.
package soak
