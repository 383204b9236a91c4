{{- define "tierwise.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "tierwise.selector" -}}
app.kubernetes.io/name: tierwise
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tierwise.labels" -}}
{{ include "tierwise.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tierwise.metadata" -}}
name: {{ include "tierwise.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "tierwise.labels" . | nindent 2 }}
{{- end }}

{{- define "tierwise.kind" -}}
{{ .Values.journal.persistent | ternary "StatefulSet" "Deployment" }}
{{- end }}
