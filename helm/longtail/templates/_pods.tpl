{{/* What the restricted profile asks of a pod. */}}
{{- define "longtail.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.pods.user }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
fsGroup: {{ int . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What the restricted profile asks of a container, and a root that nothing can write to. */}}
{{- define "longtail.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod runs and how it ends: (dict "root" $ "component" "retriever" "values" .Values.retriever). */}}
{{- define "longtail.placement" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .root.Values.pods.leaveSeconds .root.Values.pods.drainSeconds 5 }}
securityContext:
  {{- include "longtail.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .root.Values.pods.priorityClass }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $.root.Values.pods.spread }}
    # Nodes that may not be used (other pools, drained ones) are no places left empty, and a new revision is spread by itself:
    # otherwise a rollout waits for room that never comes.
    nodeTaintsPolicy: Honor
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "longtail.labels" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* How many pods a component has: (dict "root" $ "values" .Values.retriever). */}}
{{- define "longtail.replicas" -}}
minReplicas: {{ .values.replicas.min }}
maxReplicas: {{ ternary .values.replicas.min .values.replicas.max (eq .root.Values.scaling.by "none") }}
deploymentStrategy:
  type: RollingUpdate
  rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- if eq .root.Values.scaling.by "hpa" }}
scaleMetric: cpu
scaleTarget: {{ .root.Values.scaling.cpu }}
{{- end }}
{{- end -}}

{{- define "longtail.scaleByCpu" -}}
autoScaling:
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .Values.scaling.cpu }}}
{{- end -}}

{{- define "longtail.kserveAnnotations" -}}
serving.kserve.io/deploymentMode: Standard
serving.kserve.io/autoscalerClass: {{ .Values.scaling.by }}
{{- end -}}

{{/* A pod leaves the endpoints, callers see that, then it stops. */}}
{{- define "longtail.leave" -}}
preStop:
  sleep: {seconds: {{ .Values.pods.leaveSeconds }}}
{{- end -}}

{{/* Probes over HTTP: (dict "root" $ "ready" path "live" path). */}}
{{- define "longtail.probes" -}}
startupProbe:
  httpGet: {path: {{ .ready }}, port: 8080}
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: {{ div .root.Values.pods.startSeconds 3 }}
readinessProbe:
  httpGet: {path: {{ .ready }}, port: 8080}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- with .live }}
livenessProbe:
  httpGet: {path: {{ . }}, port: 8080}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
{{- end -}}

{{/* One thread a library: pods are scaled, not threads, and matrices are small. */}}
{{- define "longtail.serverEnv" -}}
- {name: LONGTAIL_HOST, value: 0.0.0.0}
- {name: OMP_NUM_THREADS, value: "1"}
- {name: OPENBLAS_NUM_THREADS, value: "1"}
{{- end -}}

{{/* Resources of a component with GPUs: requests and limits of a GPU must be equal. */}}
{{- define "longtail.gpuResources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpu.count -}}
{{- $_ := set $resources "limits" (set ($resources.limits | default dict) .gpu.resource (toString .gpu.count)) -}}
{{- $_ := set $resources "requests" (set ($resources.requests | default dict) .gpu.resource (toString .gpu.count)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* All but one pod stay while nodes drain; over a single pod it would block the drain for ever. */}}
{{- define "longtail.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "longtail.metadata" (dict "root" .root "name" .component "component" .component) | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "longtail.labels" . | nindent 6 }}
{{- end -}}
