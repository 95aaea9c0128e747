package remote

import "testing"

func TestInsecure(t *testing.T) {
	o := Options{Insecure: []string{"registry.lan", "other.lan:5000"}}
	for registry, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.1.2.3": true, "[::1]:5000": true, "[::1]": true,
		"registry.lan": true, "registry.lan:8443": true, "other.lan:5000": true, "other.lan": false, "other.lan:5001": false,
		"registry.example": false, "10.0.0.1:5000": false, "localhost.example": false, "": false,
	} {
		if got := o.insecure(registry); got != want {
			t.Errorf("insecure(%q) = %v", registry, got)
		}
	}
}
