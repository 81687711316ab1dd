package scan

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
)

func benchmark(b *testing.B, m Message, s Scanner) {
	b.SetBytes(m.Data.Size())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Scan(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSmall(b *testing.B) {
	m := newMessage(b, "", strings.Repeat("a line of text with https://example.com/ in it\n", 80))
	b.Run("spam", func(b *testing.B) { benchmark(b, m, NewSpam(0)) })
	b.Run("virus", func(b *testing.B) { benchmark(b, m, NewVirus(ArchiveLimits{})) })
	b.Run("attachments", func(b *testing.B) {
		benchmark(b, m, NewAttachments(AttachmentOptions{Blocked: []string{".exe"}, MaxSize: 1 << 20}))
	})
}

// A ZIP file of 10,000 files and 40 MB is the most that is looked into.
func BenchmarkLargeZip(b *testing.B) {
	var pairs []string
	text := strings.Repeat("0123456789abcdef", 250)
	for i := range 9999 {
		pairs = append(pairs, fmt.Sprintf("folder/file-%d.txt", i), text)
	}
	var file bytes.Buffer
	file.WriteString("Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	all := base64.StdEncoding.EncodeToString([]byte(zipped(pairs...)))
	for len(all) > 76 {
		file.WriteString(all[:76] + "\r\n")
		all = all[76:]
	}
	file.WriteString(all + "\r\n")
	m := rawMessage(b, file.Bytes())
	m.Data = io.NewSectionReader(bytes.NewReader(file.Bytes()), 0, int64(file.Len()))
	b.Run("virus", func(b *testing.B) { benchmark(b, m, NewVirus(ArchiveLimits{})) })
}
