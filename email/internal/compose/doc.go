// Package compose writes messages: a header section that every mail program reads
// alike, and text, HTML, inline pictures and attachments as the parts of MIME.
//
//	p, err := compose.Prepare(&compose.Message{
//		From: "Shop <shop@example.com>", To: []string{"ann@example.org"},
//		Subject: "Grüße", HTML: "<p>Hello</p>",
//	}, compose.Options{})
//	...
//	written, err := p.Write(draft)
//
// [Prepare] finds all mistakes, so that nothing is begun that cannot be sent.
// Whatever the strings hold, the message has exactly the fields and parts that were
// meant: line breaks and control characters are refused, everything else is quoted
// or encoded. Attachments are streamed.
//
// RFC 2045 to 2047 (MIME), 2231 (file names), 2387 (related), 5322 (messages), 6532
// (UTF-8 in addresses).
package compose
