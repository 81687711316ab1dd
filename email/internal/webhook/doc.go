// Package webhook tells other programs what happens, by POST requests that are
// signed as Standard Webhooks (standardwebhooks.com):
//
//	webhook-id: evt_...               the same at each try, for who wants to know an event once
//	webhook-timestamp: 1893553445     when it was sent
//	webhook-signature: v1,...         HMAC-SHA256 of id.timestamp.body
//
//	{"type":"delivered","timestamp":"2030-01-02T03:04:05Z","data":{...}}
//
// Each endpoint has a queue, so that a slow one holds up no other. An answer other
// than 2xx, redirections among them, is tried again for a day; 410 ends the
// endpoint until the next start. While an endpoint fails, it is asked with one
// event at a time. Events may come out of order, and twice.
//
// What waits for more than some seconds is stored, many events a write:
//
//	email/webhooks/{endpoint}/{time, 16 hexadecimal digits}-{random}
package webhook
