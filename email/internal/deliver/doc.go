// Package deliver puts messages into mailboxes of this host: Maildir, as
// https://cr.yp.to/proto/maildir.html describes it.
package deliver
