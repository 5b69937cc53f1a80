// The provisioner of the test cluster's StorageClass: a folder of the node for each claim, as a `local` volume.
// Unlike hostPath, kubelet gives such a volume the pod's fsGroup: like a cloud's disk, it belongs to root until then.
//
//	provisioner KUBECONFIG FOLDER
package main

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	name      = "matcha.test/local"
	storage   = "volume.kubernetes.io/storage-provisioner"
	node      = "volume.kubernetes.io/selected-node"
	madeBy    = "pv.kubernetes.io/provisioned-by"
	hostLabel = "kubernetes.io/hostname"
)

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	for ; ; time.Sleep(300 * time.Millisecond) {
		if err := provision(client, os.Args[2]); err != nil {
			log.Print(err)
		}
		if err := remove(client, os.Args[2]); err != nil {
			log.Print(err)
		}
	}
}

func provision(client kubernetes.Interface, folder string) error {
	ctx := context.Background()
	claims, err := client.CoreV1().PersistentVolumeClaims("").List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		if claim.Annotations[storage] != name || claim.Annotations[node] == "" || claim.Spec.VolumeName != "" {
			continue
		}
		class, err := client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, meta.GetOptions{})
		if err != nil {
			return err
		}
		volume := volumeFor(&claim, folder)
		volume.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
		if err := os.MkdirAll(volume.Spec.Local.Path, 0o755); err != nil {
			return err
		}
		_, err = client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
		if err == nil {
			log.Printf("made %s for %s/%s", volume.Name, claim.Namespace, claim.Name)
		} else if !errors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func volumeFor(claim *v1.PersistentVolumeClaim, folder string) *v1.PersistentVolume {
	id := "pvc-" + string(claim.UID)
	onNode := v1.NodeSelectorRequirement{
		Key: hostLabel, Operator: v1.NodeSelectorOpIn, Values: []string{claim.Annotations[node]},
	}
	terms := []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{onNode}}}
	return &v1.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: id, Annotations: map[string]string{madeBy: name}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: *claim.Spec.StorageClassName,
			AccessModes:      claim.Spec.AccessModes,
			VolumeMode:       claim.Spec.VolumeMode,
			Capacity:         v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			ClaimRef: &v1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: v1.PersistentVolumeSource{
				Local: &v1.LocalVolumeSource{Path: filepath.Join(folder, id)},
			},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: terms}},
		},
	}
}

func remove(client kubernetes.Interface, folder string) error {
	ctx := context.Background()
	volumes, err := client.CoreV1().PersistentVolumes().List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, volume := range volumes.Items {
		if volume.Annotations[madeBy] != name || volume.Status.Phase != v1.VolumeReleased ||
			volume.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
			continue
		}
		if err := os.RemoveAll(filepath.Join(folder, volume.Name)); err != nil {
			return err
		}
		err := client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
		if err != nil && !errors.IsNotFound(err) {
			return err
		}
		log.Printf("removed %s", volume.Name)
	}
	return nil
}
