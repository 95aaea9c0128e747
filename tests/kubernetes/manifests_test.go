// Package kubernetes checks the manifests under deploy/kubernetes against the types that an API server decodes them into. It is a
// module of its own so that these types are no dependency of bakefarm.
package kubernetes

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const root = "../../deploy/kubernetes"

// kinds are what the manifests may hold, by apiVersion and kind. Those that are not Kubernetes' own have only the fields
// that are used here.
var kinds = map[string]func() any{
	"v1/Service":                                    func() any { return new(corev1.Service) },
	"apps/v1/Deployment":                            func() any { return new(appsv1.Deployment) },
	"apps/v1/StatefulSet":                           func() any { return new(appsv1.StatefulSet) },
	"policy/v1/PodDisruptionBudget":                 func() any { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy":            func() any { return new(networkingv1.NetworkPolicy) },
	"autoscaling/v2/HorizontalPodAutoscaler":        func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"keda.sh/v1alpha1/ScaledObject":                 func() any { return new(scaledObject) },
	"kustomize.config.k8s.io/v1beta1/Kustomization": func() any { return new(kustomization) },
}

type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef  struct{ Name string }
		MinReplicaCount int
		MaxReplicaCount int
		CooldownPeriod  int
		Triggers        []struct {
			Type     string
			Metadata map[string]string
		}
	}
}

type kustomization struct {
	metav1.TypeMeta `json:",inline"`
	Namespace       string
	Resources       []string
	Images          []struct{ Name, NewName, NewTag string }
	Patches         []struct{ Path string }
}

// each calls fn with every object of every manifest, decoded strictly: an unknown field is an error.
func each(t *testing.T, fn func(file string, object any)) {
	t.Helper()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(file) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal(document, &kind); err != nil {
				return err
			}
			if kind.Kind == "" && len(strings.TrimSpace(string(document))) == 0 {
				continue
			}
			make, known := kinds[kind.APIVersion+"/"+kind.Kind]
			if !known {
				t.Errorf("%s: %s %s is not one that this test knows", file, kind.APIVersion, kind.Kind)
				continue
			}
			object := make()
			if err := yaml.UnmarshalStrict(document, object); err != nil {
				t.Errorf("%s: %s: %v", file, kind.Kind, err)
				continue
			}
			fn(file, object)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestManifests(t *testing.T) {
	count := 0
	pod := func(file string, s corev1.PodSpec, labels map[string]string, selector *metav1.LabelSelector) {
		for key, value := range selector.MatchLabels {
			if labels[key] != value {
				t.Errorf("%s: the pods' labels lack %s=%s of the selector", file, key, value)
			}
		}
		for _, c := range s.Containers {
			if c.ReadinessProbe == nil || c.LivenessProbe == nil || c.StartupProbe == nil || c.SecurityContext == nil || len(c.Resources.Requests) == 0 {
				t.Errorf("%s: %s lacks a probe, a security context or requests", file, c.Name)
			}
			ports := map[string]bool{}
			for _, p := range c.Ports {
				ports[p.Name] = true
			}
			for _, probe := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
				if probe != nil && !ports[probe.HTTPGet.Port.StrVal] {
					t.Errorf("%s: %s: a probe asks port %s, which it has not", file, c.Name, probe.HTTPGet.Port.String())
				}
			}
			if len(c.Args) == 0 {
				t.Errorf("%s: %s has no role", file, c.Name)
			}
		}
	}
	each(t, func(file string, object any) {
		count++
		patch := strings.Contains(file, "privileged")
		switch o := object.(type) {
		case *appsv1.Deployment:
			if !patch {
				pod(file, o.Spec.Template.Spec, o.Spec.Template.Labels, o.Spec.Selector)
			}
		case *appsv1.StatefulSet:
			pod(file, o.Spec.Template.Spec, o.Spec.Template.Labels, o.Spec.Selector)
		case *kustomization:
			for _, resource := range o.Resources {
				if _, err := os.Stat(filepath.Join(filepath.Dir(file), resource)); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	})
	if count < 12 {
		t.Errorf("%d objects", count)
	}
}
