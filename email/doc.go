// Package email will be a mail server: it will receive mail by SMTP, decide
// per recipient by [Route] whether to forward, process, deliver or reject it,
// and send mail through a durable queue, with DKIM, SPF and DMARC on both
// ways.
//
// This version holds its configuration only: the types, their JSON form and
// their validation. The server arrives later.
package email
