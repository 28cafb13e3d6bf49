//! Containers: the image, and the pods that Kubernetes is told to make of it.
//!
//! No cluster and no registry is at hand. So the manifests are rendered by kubectl and judged by Kubernetes' own schemas, and a
//! pod is then made of them here as a kubelet would: same user, groups, variables, volumes, owners and modes, and a root
//! that cannot be written to. `make test-image` has the image itself in that pod, built by its Dockerfile.

mod dockerfile;
mod image;
mod kubernetes;
mod manifests;
mod pod;
