package bus

import (
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"bakefarm/farm"
)

// kvKey is what ADR-8 allows for a key.
var kvKey = regexp.MustCompile(`^[-/_=.a-zA-Z0-9]+$`)

func checkKey(t *testing.T, key string) {
	t.Helper()
	escaped := escapeKey(key)
	if !kvKey.MatchString(escaped) || strings.HasPrefix(escaped, ".") || strings.HasSuffix(escaped, ".") || strings.Contains(escaped, "..") {
		t.Errorf("escapeKey(%q) = %q, which KV refuses", key, escaped)
	}
	if len(escaped) > 3*max(1, len(key)) {
		t.Errorf("escapeKey(%q) is %d bytes", key, len(escaped))
	}
	// The inverse proves that no other key has the same form.
	if back, err := unescapeKey(escaped); err != nil || back != key {
		t.Errorf("unescapeKey(%q) = %q, %v; want %q", escaped, back, err, key)
	}
}

func TestEscapeKey(t *testing.T) {
	for key, want := range map[string]string{
		"":                     "=",
		"01JABC_x-y":           "01JABC_x-y",
		"shop/checkout@1a2b":   "shop=2Fcheckout.1a2b",
		"a.b":                  "a=2Eb",
		"@a":                   "=40a",
		"a@":                   "a=40",
		"a@@b":                 "a.=40b",
		"a@@@b":                "a.=40.b",
		"=":                    "=3D",
		"a b\n*>":              "a=20b=0A=2A=3E",
		"é":                    "=C3=A9",
		"n@c@v@sha256:0a":      "n.c.v.sha256=3A0a",
		strings.Repeat("@", 4): "=40.=40=40",
	} {
		if got := escapeKey(key); got != want {
			t.Errorf("escapeKey(%q) = %q, want %q", key, got, want)
		}
		checkKey(t, key)
	}
	for _, escaped := range []string{"", ".", "a.", ".a", "a..b", "=4", "=4g", "=2f", "a==", "=41", "a=40b", "a/b", "a b"} {
		if key, err := unescapeKey(escaped); err == nil && escaped != "" {
			t.Errorf("unescapeKey(%q) = %q, though escapeKey never writes it", escaped, key)
		}
	}
}

func FuzzEscapeKey(f *testing.F) {
	for _, key := range []string{"", "@", "a@@b@", "shop/checkout@prod", "\x00\xff=.", strings.Repeat("@", 1024)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) { checkKey(t, key) })
}

// Whatever has a key that begins with a prefix is selected by one of the prefix's filters.
func FuzzPrefixFilters(f *testing.F) {
	f.Add("shop/checkout@", "prod")
	f.Add("a@@", "x")
	f.Add("a@", "@")
	f.Add("a@", "")
	f.Fuzz(func(t *testing.T, prefix, rest string) {
		escaped := escapeKey(prefix + rest)
		for _, filter := range prefixFilters(prefix) {
			head, wild := strings.CutSuffix(filter, ">")
			if wild && strings.HasPrefix(escaped, head) && len(escaped) > len(head) || escaped == filter {
				return
			}
		}
		t.Errorf("key %q (%q) is not selected by %q", prefix+rest, escaped, prefixFilters(prefix))
	})
}

func TestRedact(t *testing.T) {
	for address, want := range map[string]string{
		"nats://127.0.0.1:4222":              "nats://127.0.0.1:4222",
		"nats://me:secret@host:4222":         "nats://host:4222",
		"token@host:4222, tls://u:p@other:1": "host:4222,tls://other:1",
		"nats://u:p@ss@host:4222":            "nats://host:4222",
	} {
		if got := Redact(address); got != want {
			t.Errorf("Redact(%q) = %q, want %q", address, got, want)
		}
	}
}

// Every type with a Schema field is known to schemaOf, else its number would be neither stamped nor checked.
func TestEveryRecordHasItsSchemaChecked(t *testing.T) {
	b := reflect.TypeFor[Bus]()
	checked := 0
	for i := range b.NumField() {
		field := b.Field(i).Type
		if field.Kind() != reflect.Pointer || !strings.HasPrefix(field.Elem().Name(), "Bucket[") {
			continue
		}
		get, _ := field.MethodByName("Get")
		record := reflect.New(get.Type.Out(0))
		if schemaOf(record.Interface()) == nil {
			t.Errorf("schemaOf does not know %v", record.Type())
		}
		checked++
	}
	if checked < 13 { // the others are there to stay
		t.Errorf("checked %d buckets only", checked)
	}
	for _, v := range []any{&farm.Event{}, &farm.ChannelMove{}, &ClaimRequest{}, &ClaimReply{}, &BeatRequest{}, &BeatReply{}, &ReportRequest{}, &ReportReply{},
		&SubmitRequest{}, &CancelRequest{}, &PromoteRequest{}, &RollbackRequest{}, &CancelShard{}, &hint{}} {
		if schemaOf(v) == nil {
			t.Errorf("schemaOf does not know %T", v)
		}
	}
}

func TestSchemaNeighbours(t *testing.T) {
	for _, data := range []string{`{"schema":0}`, `{}`, `{"schema":3}`, `{"schema":-1}`} {
		if _, err := decode[farm.Bake]("bakes x", []byte(data)); err == nil || !strings.Contains(err.Error(), "bakes x has schema") {
			t.Errorf("%s: %v", data, err)
		}
	}
	if _, err := decode[farm.Bake]("bakes x", []byte(`{"schema":2,"id":"x","new":1}`)); err != nil {
		t.Errorf("a newer neighbour: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":1,"id":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		decode[farm.Shard]("shard", data)
		decode[ReportRequest]("report", data)
		decode[hint]("hint", data)
	})
}

func TestErrorsTravel(t *testing.T) {
	for code, sentinel := range codes {
		travelled := remoteError(translate("bakes x", sentinel))
		if travelled.Code != code || !errors.Is(travelled, sentinel) || !strings.HasPrefix(travelled.Message, "bakes x: ") || !strings.HasSuffix(travelled.Message, sentinel.Error()) {
			t.Errorf("%v became %+v", sentinel, travelled)
		}
		if other := remoteError(errors.New("x")); other.Code != codeInternal || errors.Is(other, sentinel) {
			t.Errorf("%+v", other)
		}
	}
}

func TestBackoff(t *testing.T) {
	for attempt := range 100 {
		most := 5 * time.Second
		if attempt < 5 {
			most = 250 * time.Millisecond << attempt
		}
		if d := backoff(attempt, 250*time.Millisecond, 5*time.Second); d > most || d < most*3/4-1 {
			t.Errorf("attempt %d: %v, want %v less up to a quarter", attempt, d, most)
		}
	}
}

func TestListenAddress(t *testing.T) {
	for _, addr := range []string{"", "4222", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "0.0.0.0:4222", ":4222", "192.0.2.1:4222", "example.org:1"} {
		if _, _, err := new(Config).listenAddress(addr); err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("%q: %v", addr, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:4222", "localhost:0", "[::1]:1"} {
		if _, _, err := new(Config).listenAddress(addr); err != nil {
			t.Errorf("%q: %v", addr, err)
		}
	}
	for _, c := range []Config{{Secret: "s"}, {Trusting: true}} {
		if _, _, err := c.listenAddress("0.0.0.0:4222"); err != nil {
			t.Error(err)
		}
	}
}
