"""Forms of what deployments refer to."""

from typing import Any

from django import forms

from accounts.permissions import Actor, managed_organizations
from deployments.models import Cluster, Endpoint, Model
from deployments.selectors import usable_clusters
from runtimes.allowances import LONGEST, MOST_PATTERNS
from runtimes.kubernetes.places import TEMPLATE

ALLOWANCES = {
    "annotations": ("Annotations that organizations may set", "Some give pods cloud roles or networks. One per line, here and below; * stands for any text, {organization} for the organization's name. Operators may use any."),
    "labels": ("Labels that organizations may set", "Services and policies choose pods by their labels."),
    "tolerations": ("Taints that organizations may tolerate", "By the taint's key."),
    "node_selectors": ("Labels of nodes that organizations may choose by", ""),
    "images": ("Images that organizations may run", "For one registry's folder: ghcr.io/acme/*"),
    "claims": ("Volume claims that organizations may mount", "Claims begin with the organization's name and a dot; this narrows them down."),
}  # fmt: skip


class ModelForm(forms.ModelForm):
    credential = forms.CharField(
        label="Access token", required=False, max_length=500, strip=True, help_text="For gated sources; for a store its key as id:secret. Stored encrypted, never shown again.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )  # fmt: skip

    class Meta:
        model = Model
        fields = ("name", "organization", "source", "uri", "description")
        labels = {"uri": "Address"}
        help_texts = {
            "uri": "What the source calls it: a repository (org/name), a store (s3://bucket/path, for others than AWS with ?endpoint=https://…&region=…), a volume claim (pvc://claim/path), or a path on the machine or in the image, as /models/tiny.gguf. Empty for engines that need none.",
        }
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _offer_organizations(self, actor)
        if self.instance.pk and self.instance.encrypted_credentials:
            self.fields["credential"].help_text = "A token is stored. Leave empty to keep it."


class EndpointForm(forms.ModelForm):
    origins = forms.CharField(
        label="Allowed browser origins (CORS)", required=False, max_length=20_000, strip=True,
        help_text="Websites whose pages may call it, one origin per line, such as https://app.example.com. * allows any. Empty: none. A key is still required where the deployment needs one.",
        widget=forms.Textarea(attrs={"rows": 2, "class": "form-control mono", "spellcheck": "false"}),
    )  # fmt: skip

    class Meta:
        model = Endpoint
        fields = ("name", "organization", "cluster", "description")
        help_texts = {
            "name": "The path prefix at the gateway: /{name}/{deployment}/…",
            "cluster": "Where deployments of this endpoint run.",
        }
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _offer_organizations(self, actor)
        self.fields["origins"].initial = "\n".join(self.instance.origins)
        self.fields["cluster"].empty_label = None
        self.fields["cluster"].queryset = usable_clusters(actor)
        # The rule's own message says more than "at most 63 characters".
        self.fields["name"].max_length = None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "origins" in self.data:
            self.instance.origins = cleaned.get("origins", "").split()
        return cleaned


class ClusterForm(forms.ModelForm):
    kubeconfig = forms.CharField(
        label="Kubeconfig", required=False, max_length=100_000, strip=False,
        help_text="For Kubernetes. Stored encrypted, never shown again. Empty when Slipway runs in this cluster: its service account is used.",
        widget=forms.Textarea(attrs={"rows": 6, "class": "form-control mono", "autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip

    callers = forms.CharField(
        label="Who may call instances there", required=False, max_length=2000, strip=True,
        help_text="Gateways, and Slipway's worker, which reads engines' metrics: networks (10.0.0.0/8; through the API server those of the control plane) or namespaces, one per line. A NetworkPolicy keeps everybody else out; 0.0.0.0/0 lets in anybody.",
        widget=forms.Textarea(attrs={"rows": 2, "class": "form-control mono", "spellcheck": "false"}),
    )  # fmt: skip

    class Meta:
        model = Cluster
        fields = (
            "name",
            "driver",
            "namespace",
            "namespace_template",
            "reach",
            "description",
            "is_for_all",
            "organizations",
        )
        labels = {
            "namespace_template": "Each organization’s own namespace",
            "reach": "Gateways reach instances",
            "is_for_all": "Every organization may use it",
            "organizations": "These may use it",
        }
        help_texts = {
            "driver": "Processes of this machine, or pods of a Kubernetes cluster.",
            "namespace": "For Kubernetes: Slipway’s own namespace there. It must exist.",
            "namespace_template": "Its name: {prefix} stands for the namespace above, {organization} for the organization’s name. Made when first needed, with the organization’s quota. Empty: all instances run in the namespace above, where Secrets and claims of all organizations lie side by side.",
            "reach": "For Kubernetes. Through the API server, gateways need no route to the pods' network, but answers are slower, and what clients put into “Authorization” doesn't reach the instance.",
        }
        widgets = {
            "description": forms.Textarea(attrs={"rows": 2}),
            # With a placeholder the style sheet sees whether it is empty.
            "namespace_template": forms.TextInput(attrs={"placeholder": " "}),
            "organizations": forms.SelectMultiple(attrs={"size": 5, "class": "form-select"}),
        }

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for kind, (label, help_text) in ALLOWANCES.items():
            patterns = self.instance.allowances.get(kind, [])
            self.fields[kind] = forms.CharField(
                label=label, required=False, help_text=help_text, initial="\n".join(patterns), max_length=MOST_PATTERNS * (LONGEST + 2),
                widget=forms.Textarea(attrs={"rows": min(8, max(2, len(patterns))), "class": "form-control mono", "spellcheck": "false"}),
            )  # fmt: skip
        self.fields["callers"].initial = "\n".join(self.instance.callers)
        if not self.instance.pk:
            self.initial["namespace_template"] = TEMPLATE
        self.order_fields(
            ("name", "driver", "namespace", "namespace_template", "callers", "kubeconfig", "reach", "description")
        )
        # Left out means the default; browsers always send it.
        self.fields["reach"].required = False
        if self.instance.pk:
            self.fields["driver"].disabled = True
            if self.instance.driver == Cluster.Driver.LOCAL:
                for name in ("kubeconfig", "namespace", "namespace_template", "callers", "reach", *ALLOWANCES):
                    del self.fields[name]
            elif self.instance.encrypted_kubeconfig:
                self.fields["kubeconfig"].help_text = "One is stored. Leave empty to keep it."

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "callers" in self.data:
            self.instance.callers = cleaned.get("callers", "").split()
        # The suggested one means nothing on this machine.
        if cleaned.get("driver") == Cluster.Driver.LOCAL and cleaned.get("namespace_template") == TEMPLATE:
            cleaned["namespace_template"] = ""
        # Those of a form that doesn't ask for them stay as they are.
        asked = {
            kind: [line.strip() for line in cleaned[kind].splitlines() if line.strip()]
            for kind in ALLOWANCES
            if kind in self.fields and kind in cleaned and kind in self.data
        }
        self.instance.allowances = self.instance.allowances | asked
        return cleaned


def _offer_organizations(form: forms.ModelForm, actor: Actor) -> None:
    field = form.fields["organization"]
    field.queryset = managed_organizations(actor)
    field.empty_label = None
    if form.instance.pk:
        field.disabled = True
