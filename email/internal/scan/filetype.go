package scan

import "bytes"

// fileType is what a file is by its first bytes.
type fileType int

const (
	otherFile fileType = iota
	windowsProgram
	unixProgram
	scriptFile
	shortcut
	zipFile
	gzipFile
	tarFile
	sealedArchive // one that we cannot look into
)

// headSize is how much of a file is looked at; a tar file shows itself at 257.
const headSize = 512

func typeOf(head []byte) fileType {
	begins := func(s string) bool { return bytes.HasPrefix(head, []byte(s)) }
	switch {
	case begins("MZ") && bytes.IndexByte(head[:min(64, len(head))], 0) >= 0: // text may begin so too
		return windowsProgram
	case begins("\x7fELF"), begins("\xfe\xed\xfa\xce"), begins("\xfe\xed\xfa\xcf"),
		begins("\xce\xfa\xed\xfe"), begins("\xcf\xfa\xed\xfe"), begins("\xca\xfe\xba\xbe"):
		return unixProgram
	case begins("#!/"), begins("#! /"):
		return scriptFile
	case begins("\x4c\x00\x00\x00\x01\x14\x02\x00"):
		return shortcut
	case begins("PK\x03\x04"), begins("PK\x05\x06"), begins("PK\x07\x08"):
		return zipFile
	case begins("\x1f\x8b"):
		return gzipFile
	case len(head) >= 265 && string(head[257:262]) == "ustar":
		return tarFile
	case begins("Rar!\x1a\x07"), begins("7z\xbc\xaf\x27\x1c"), begins("MSCF\x00"), begins("\xfd7zXZ\x00"),
		begins("BZh") && len(head) > 3 && head[3] >= '1' && head[3] <= '9', begins("\x28\xb5\x2f\xfd"):
		return sealedArchive
	}
	return otherFile
}

// extensions are the usual ones of a type. Content of it is refused, whatever its
// name, where one of them is blocked.
func (t fileType) extensions() []string {
	switch t {
	case windowsProgram:
		return []string{".exe", ".com", ".scr", ".pif", ".dll", ".cpl"}
	case unixProgram:
		return []string{".exe", ".elf", ".so", ".dylib", ".class"}
	case scriptFile:
		return []string{".sh"}
	case shortcut:
		return []string{".lnk"}
	}
	return nil
}

func (t fileType) String() string {
	switch t {
	case windowsProgram:
		return "Windows program"
	case unixProgram:
		return "program"
	case scriptFile:
		return "script"
	case shortcut:
		return "shortcut"
	}
	return "file"
}
