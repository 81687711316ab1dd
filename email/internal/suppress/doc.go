// Package suppress keeps the addresses that no mail is sent to: those that bounced,
// whose people complained or unsubscribed, or that an operator entered.
//
// The list is in memory, sorted, and a question costs no I/O. What changes is
// stored in segments that are never changed: each has the changes of some seconds,
// and of an address the newest change counts, wherever it is. So segments may be
// read in any order and twice, several processes on one storage need no locks and
// see each other's changes, and a crash between writing a merged segment and
// deleting its parts does no harm. Small segments are merged when there are many,
// and all are written anew when much in them is outdated.
//
//	email/bounces/suppression/{time, 16 hexadecimal digits}-{random}
package suppress
