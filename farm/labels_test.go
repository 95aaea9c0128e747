package farm_test

import (
	"strings"
	"testing"

	"bakefarm/farm"
)

func TestMeets(t *testing.T) {
	labels := []string{"gpu=a100", "region=eu", "big"}
	for requires, want := range map[string]bool{
		"": true, "gpu": true, "gpu=a100": true, "gpu=h100": false, "region=eu big": true, "region=eu small": false,
		"reg": false, "region=e": false, "gpu region": true,
	} {
		if farm.Meets(labels, strings.Fields(requires)) != want {
			t.Errorf("%q: want %t", requires, want)
		}
	}
	if !farm.Meets(nil, nil) || farm.Meets(nil, []string{"gpu"}) {
		t.Error("without labels")
	}
}

func TestCheckLabel(t *testing.T) {
	for label, ok := range map[string]bool{
		"gpu": true, "region=eu": true, "k8s.io/zone=eu-1": true, "": false, "=eu": false, "region=": false, "a b": false, "a=b=c": false,
		strings.Repeat("x", 64): false,
	} {
		if err := farm.CheckLabel(label); (err == nil) != ok {
			t.Errorf("%q: %v", label, err)
		}
	}
}
