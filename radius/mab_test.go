package radius

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func testPolicy() Config {
	return Config{
		MACAuth:        &MACAuth{AllowedMACs: []string{"aa:bb:cc:dd:ee:ff", "00:11:22:*"}, DefaultVLAN: 100, GuestVLAN: 999},
		VLANAssignment: []VLANRule{{Match: VLANMatch{MAC: "00:11:22:33:*"}, VLAN: 20}},
	}
}

// Every notation of the vendors, with the passwords that they send, over PAP
// and CHAP.
func TestVendorFormsRadclient(t *testing.T) {
	s := startServer(t, testPolicy())
	forms := []struct{ vendor, user, calling string }{
		{"Cisco", "aabbccddeeff", "AA-BB-CC-DD-EE-FF"},
		{"Cisco dotted", "aabb.ccdd.eeff", "aabb.ccdd.eeff"},
		{"Aruba", "aa:bb:cc:dd:ee:ff", "AABBCCDDEEFF"},
		{"MikroTik", "AA:BB:CC:DD:EE:FF", "AA:BB:CC:DD:EE:FF"},
		{"HP", "aa-bb-cc-dd-ee-ff", "aa-bb-cc-dd-ee-ff"},
		{"HP single dash", "001122-334455", "00-11-22-33-44-55"},
		{"Juniper", "001122334455", "00-11-22-33-44-55"},
		{"Huawei", "0011-2233-4455", "0011-2233-4455"},
	}
	for _, form := range forms {
		want := `Tunnel-Private-Group-Id:0 = "100"`
		if strings.HasPrefix(form.user, "00") {
			want = `Tunnel-Private-Group-Id:0 = "20"`
		}
		for _, password := range []string{
			"User-Password = " + quote(form.user), `User-Password = ""`, `User-Password = "any"`,
			"CHAP-Password = " + quote(form.user), "CHAP-Password = " + quote(form.calling), `CHAP-Password = ""`,
		} {
			out := radclient(t, authAddr(s), "auth", testSecret, "User-Name = "+quote(form.user), "Calling-Station-Id = "+quote(form.calling),
				password, "Message-Authenticator = 0x00")
			if !strings.Contains(out, "Received Access-Accept") || !strings.Contains(out, want) ||
				!strings.Contains(out, "Tunnel-Type:0 = VLAN") || !strings.Contains(out, "Tunnel-Medium-Type:0 = IEEE-802") {
				t.Errorf("%s, %s: %s", form.vendor, password, out)
			}
		}
		out := radclient(t, authAddr(s), "auth", testSecret, "User-Name = "+quote(form.user), "Calling-Station-Id = "+quote(form.calling),
			`CHAP-Password = "wrong"`, "Message-Authenticator = 0x00")
		if !strings.Contains(out, "Received Access-Reject") {
			t.Errorf("%s: a wrong CHAP password: %s", form.vendor, out)
		}
	}
}

// Unknown devices go to the guests, or nowhere.
func TestUnknownDevicesRadclient(t *testing.T) {
	cfg := testPolicy()
	for _, guest := range []int{999, 0} {
		cfg.MACAuth.GuestVLAN = guest
		s := startServer(t, cfg)
		out := radclient(t, authAddr(s), "auth", testSecret, `User-Name = "0a0a0a0a0a0a"`, `Calling-Station-Id = "0A-0A-0A-0A-0A-0A"`, `User-Password = "0a0a0a0a0a0a"`, "Message-Authenticator = 0x00")
		want := "Received Access-Reject"
		if guest != 0 {
			want = `Tunnel-Private-Group-Id:0 = "999"`
		}
		if !strings.Contains(out, want) {
			t.Errorf("guest VLAN %d: %s", guest, out)
		}
	}
}

func quote(s string) string { return `"` + s + `"` }

// A device is one by its User-Name being its own address, whatever else the
// request says.
func TestDeviceOrUser(t *testing.T) {
	s := startServer(t, Config{MACAuth: &MACAuth{AllowedMACs: []string{"*"}, DefaultVLAN: 7},
		Clients: []Client{{IP: "127.0.0.1"}, {IP: "127.0.0.2", MACInCalledStation: true}}})
	tests := []struct {
		name  string
		q     request
		local string
		want  string
	}{
		{"device", mab("aabbccddeeff"), "127.0.0.1", "Access-Accept 7"},
		{"a person who types an address", typed("aabbccddeeff", "11-22-33-44-55-66"), "127.0.0.1", "Access-Reject"},
		{"without Calling-Station-Id", typed("aabbccddeeff", ""), "127.0.0.1", "Access-Reject"},
		{"no address", mab("alice"), "127.0.0.1", "Access-Reject"},
		{"no password at all", request{user: "aabbccddeeff", sign: true}, "127.0.0.1", "Access-Accept 7"},
		{"a password of no octets", request{user: "aabbccddeeff", sign: true, attrs: []layeh.AVP{avp(rfc2865.UserPassword_Type, "")}}, "127.0.0.1", "Access-Accept 7"},
		{"a password that is no text", withPassword("aabbccddeeff", "\x01\xff"), "127.0.0.1", "Access-Reject"},
		{"a malformed password", request{user: "aabbccddeeff", sign: true, attrs: []layeh.AVP{avp(rfc2865.UserPassword_Type, "0123456789abcde")}}, "127.0.0.1", "Access-Reject"},
		{"too long", mab("aabbccddeeff0"), "127.0.0.1", "Access-Reject"},
		{"Dell", called("aabbccddeeff", "AA-BB-CC-DD-EE-FF"), "127.0.0.2", "Access-Accept 7"},
		{"Dell, with network", called("aabbccddeeff", "AA-BB-CC-DD-EE-FF:office"), "127.0.0.2", "Access-Accept 7"},
		{"Dell, another", called("aabbccddeeff", "AA-BB-CC-DD-EE-00"), "127.0.0.2", "Access-Reject"},
		{"as Dell but not one", called("aabbccddeeff", "AA-BB-CC-DD-EE-FF"), "127.0.0.1", "Access-Reject"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := test.q.encode(t)
			n := dialFrom(t, test.local, authAddr(s))
			n.send(d)
			got := parseReply(t, n, d, testSecret)
			if outcome(got) != test.want {
				t.Errorf("got %s, want %s", outcome(got), test.want)
			}
		})
	}
}

func withPassword(name, password string) request {
	return request{user: name, pap: &password, sign: true}
}

func typed(name, calling string) request {
	q := request{pap: &name, sign: true}
	q.attrs = append(q.attrs, avp(rfc2865.UserName_Type, name))
	if calling != "" {
		q.attrs = append(q.attrs, avp(rfc2865.CallingStationID_Type, calling))
	}
	return q
}

func called(name, called string) request {
	q := typed(name, "")
	q.attrs = append(q.attrs, avp(rfc2865.CalledStationID_Type, called))
	return q
}

func TestEAPMD5Eapol(t *testing.T) {
	path := testenv.Need(t, "eapol_test", "apt-get install eapoltest")
	s := startServer(t, testPolicy())
	run := func(identity, password, mac string) string {
		conf := filepath.Join(testenv.Folder(t), "eap.conf")
		text := fmt.Sprintf("network={\n key_mgmt=IEEE8021X\n eap=MD5\n identity=%q\n password=%q\n}\n", identity, password)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		host, port, _ := strings.Cut(authAddr(s), ":")
		out, _ := exec.Command(path, "-n", "-t", "5", "-c", conf, "-a", host, "-p", port, "-s", testSecret, "-M", mac).CombinedOutput()
		return string(out)
	}
	if out := run("aabbccddeeff", "aabbccddeeff", "aa:bb:cc:dd:ee:ff"); !strings.HasSuffix(strings.TrimSpace(out), "SUCCESS") || !strings.Contains(out, "Value: '100'") && !strings.Contains(out, "Value: 313030") {
		t.Errorf("a known device: %s", out)
	}
	if out := run("00-11-22-33-44-55", "001122334455", "00:11:22:33:44:55"); !strings.HasSuffix(strings.TrimSpace(out), "SUCCESS") {
		t.Errorf("name and password in different notations: %s", out)
	}
	for _, wrong := range [][3]string{{"aabbccddeeff", "wrong", "aa:bb:cc:dd:ee:ff"}, {"alice", "alice", "aa:bb:cc:dd:ee:ff"}} {
		if out := run(wrong[0], wrong[1], wrong[2]); !strings.HasSuffix(strings.TrimSpace(out), "FAILURE") {
			t.Errorf("%v: %s", wrong, out)
		}
	}
}

const pyradScript = `
import sys, io
from pyrad.client import Client
from pyrad.dictionary import Dictionary
from pyrad import packet
d = Dictionary(io.StringIO("""
ATTRIBUTE User-Name 1 string
ATTRIBUTE User-Password 2 string
ATTRIBUTE Calling-Station-Id 31 string
ATTRIBUTE Tunnel-Private-Group-Id 81 string
ATTRIBUTE Acct-Status-Type 40 integer
ATTRIBUTE Acct-Session-Id 44 string
ATTRIBUTE Message-Authenticator 80 octets
"""))
host, auth, acct, secret = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
c = Client(server=host, authport=auth, acctport=acct, secret=secret, dict=d)
c.timeout = 3
q = c.CreateAuthPacket(code=packet.AccessRequest, User_Name="aabbccddeeff", Calling_Station_Id="aa:bb:cc:dd:ee:ff")
q["User-Password"] = q.PwCrypt("aabbccddeeff")
if hasattr(q, "add_message_authenticator"):  # not before pyrad 2.2
    q.add_message_authenticator()
a = c.SendPacket(q)
print(a.code, a["Tunnel-Private-Group-Id"][0])
for status in (1, 3, 2):
    q = c.CreateAcctPacket(User_Name="aabbccddeeff", Acct_Session_Id="s1", Acct_Status_Type=status)
    print(c.SendPacket(q).code)
`

func TestPyrad(t *testing.T) {
	// Debian's packages are for Debian's interpreter, which may not be the first
	// one in PATH.
	python := "/usr/bin/python3"
	if exec.Command(python, "-c", "import pyrad").Run() != nil {
		python = testenv.Need(t, "python3", "apt-get install python3 python3-pyrad")
	}
	if err := exec.Command(python, "-c", "import pyrad").Run(); err != nil {
		testenv.Lacks(t, "python3-pyrad is missing; get it with: apt-get install python3-pyrad")
	}
	s := startServer(t, testPolicy())
	_, auth, _ := strings.Cut(authAddr(s), ":")
	_, acct, _ := strings.Cut(acctAddr(s), ":")
	out, err := exec.Command(python, "-c", pyradScript, "127.0.0.1", auth, acct, testSecret).CombinedOutput()
	if want := "2 100\n5\n5\n5\n"; err != nil || string(out) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out, want)
	}
}
