#include "cli/bench/bench_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

constexpr size_t kErrorsShownMax = 5;
// Beyond this the generator is said to be late: the server was not sent what was asked for.
constexpr double kLatenessMsMax = 10;

// The samples behind the summaries.
struct Samples {
  std::vector<double> ttft, itl, tpot, e2e, refusal, retry_after, lateness;
};

void AddAnswered(const RequestRecord& record, const Slo& slo, BenchFigures& figures, Samples& samples) {
  ++figures.answered;
  figures.input_tokens += record.input_tokens;
  figures.cached_tokens += record.cached_tokens;
  figures.output_tokens += record.output_tokens;
  if (record.began) samples.ttft.push_back(record.ttft_ms());
  samples.itl.insert(samples.itl.end(), record.gaps_ms.begin(), record.gaps_ms.end());
  if (record.output_tokens > 1) samples.tpot.push_back(record.tpot_ms());
  samples.e2e.push_back(record.e2e_ms());
  if (!slo.Meets(record)) return;
  ++figures.good;
  figures.good_output_tokens += record.output_tokens;
}

void AddRefused(const RequestRecord& record, BenchFigures& figures, Samples& samples) {
  ++figures.refused;
  samples.refusal.push_back(record.e2e_ms());
  if (record.retry_after.has_value()) {
    samples.retry_after.push_back(absl::ToDoubleMilliseconds(*record.retry_after));
  } else {
    ++figures.refusals_without_retry_after;
  }
}

double PerSecond(int64_t count, const BenchFigures& figures) {
  return figures.seconds > 0 ? static_cast<double>(count) / figures.seconds : 0;
}

std::string Row(const char* name, const Summary& summary) {
  return absl::StrFormat("%-22s %10.1f %10.1f %10.1f %10.1f %10.1f\n", name, summary.mean, summary.p50, summary.p90,
                         summary.p99, summary.max);
}

void AppendSummary(const char* name, const Summary& summary, JsonWriter& json) {
  json.Key(name).BeginObject().Key("count").Number(summary.count).Key("mean").Real(summary.mean);
  json.Key("p50").Real(summary.p50).Key("p90").Real(summary.p90).Key("p99").Real(summary.p99);
  json.Key("max").Real(summary.max).End();
}

}  // namespace

BenchFigures FiguresOf(const LoadResult& result, const Slo& slo) {
  BenchFigures figures;
  Samples samples;
  std::map<std::string, int64_t> errors;
  figures.seconds = absl::ToDoubleSeconds(result.elapsed);
  figures.interrupted = result.interrupted;
  figures.generator_cores = figures.seconds > 0 ? result.cpu_seconds / figures.seconds : 0;
  for (const RequestRecord& record : result.records) {
    ++figures.sent;
    samples.lateness.push_back(record.lateness_ms());
    if (record.outcome == Outcome::kAnswered) AddAnswered(record, slo, figures, samples);
    if (record.outcome == Outcome::kRefused) AddRefused(record, figures, samples);
    if (record.outcome == Outcome::kAbandoned) ++figures.abandoned;
    if (record.outcome != Outcome::kError) continue;
    ++figures.errors;
    ++errors[record.error];
  }
  figures.ttft_ms = Summarize(std::move(samples.ttft));
  figures.itl_ms = Summarize(std::move(samples.itl));
  figures.tpot_ms = Summarize(std::move(samples.tpot));
  figures.e2e_ms = Summarize(std::move(samples.e2e));
  figures.refusal_ms = Summarize(std::move(samples.refusal));
  figures.retry_after_ms = Summarize(std::move(samples.retry_after));
  figures.lateness_ms = Summarize(std::move(samples.lateness));
  figures.error_counts.assign(errors.begin(), errors.end());
  std::stable_sort(figures.error_counts.begin(), figures.error_counts.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return figures;
}

std::string ToText(const BenchFigures& figures, bool slo) {
  std::string text = absl::StrFormat("%d requests in %.1f s: %d answered, %d refused, %d failed", figures.sent,
                                     figures.seconds, figures.answered, figures.refused, figures.errors);
  if (figures.interrupted) absl::StrAppendFormat(&text, ", %d cut off by Ctrl-C", figures.abandoned);
  absl::StrAppendFormat(&text, "\nthroughput  %.2f requests/s, %.1f output tokens/s, %.1f input tokens/s",
                        PerSecond(figures.answered, figures), PerSecond(figures.output_tokens, figures),
                        PerSecond(figures.input_tokens, figures));
  if (figures.cached_tokens > 0) {
    absl::StrAppendFormat(&text, " (%.0f%% cached)",
                          100.0 * static_cast<double>(figures.cached_tokens) /
                              static_cast<double>(std::max<int64_t>(1, figures.input_tokens)));
  }
  if (slo) {
    absl::StrAppendFormat(&text, "\ngoodput     %.2f requests/s, %.1f output tokens/s (%d of %d sent met the SLO)",
                          PerSecond(figures.good, figures), PerSecond(figures.good_output_tokens, figures),
                          figures.good, figures.sent);
  }
  absl::StrAppend(&text, "\n\n",
                  absl::StrFormat("%-22s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99", "max"));
  absl::StrAppend(&text, Row("first token (TTFT)", figures.ttft_ms), Row("between pieces (ITL)", figures.itl_ms),
                  Row("per token (TPOT)", figures.tpot_ms), Row("end to end", figures.e2e_ms));
  if (figures.refused > 0) absl::StrAppend(&text, Row("refusal", figures.refusal_ms));
  if (figures.retry_after_ms.count > 0) absl::StrAppend(&text, Row("Retry-After", figures.retry_after_ms));
  absl::StrAppend(&text, Row("sent late by", figures.lateness_ms),
                  absl::StrFormat("\nthe generator used %.2f cores\n", figures.generator_cores));
  if (figures.lateness_ms.p99 > kLatenessMsMax) {
    absl::StrAppend(&text,
                    "note: requests went out late: fewer at once were allowed (--concurrency) than came, or this "
                    "machine is too busy to generate the load\n");
  }
  if (figures.refusals_without_retry_after > 0) {
    absl::StrAppendFormat(&text, "note: %d refusals did not say when to try again\n",
                          figures.refusals_without_retry_after);
  }
  for (size_t i = 0; i < std::min(kErrorsShownMax, figures.error_counts.size()); ++i) {
    absl::StrAppendFormat(&text, "%d x %s\n", figures.error_counts[i].second, figures.error_counts[i].first);
  }
  return text;
}

std::string ToJson(const BenchFigures& figures, bool slo, const std::map<std::string, std::string>& setup) {
  JsonWriter json;
  json.BeginObject().Key("setup").BeginObject();
  for (const auto& [key, value] : setup) json.Key(key).Text(value);
  json.End();
  for (const auto& [key, value] :
       {std::pair("requests_sent", figures.sent), std::pair("requests_answered", figures.answered),
        std::pair("requests_refused", figures.refused), std::pair("requests_failed", figures.errors),
        std::pair("requests_abandoned", figures.abandoned), std::pair("input_tokens", figures.input_tokens),
        std::pair("cached_tokens", figures.cached_tokens), std::pair("output_tokens", figures.output_tokens),
        std::pair("refusals_without_retry_after", figures.refusals_without_retry_after)}) {
    json.Key(key).Number(value);
  }
  json.Key("seconds").Real(figures.seconds).Key("interrupted").Bool(figures.interrupted);
  json.Key("requests_per_second").Real(PerSecond(figures.answered, figures));
  json.Key("input_tokens_per_second").Real(PerSecond(figures.input_tokens, figures));
  json.Key("output_tokens_per_second").Real(PerSecond(figures.output_tokens, figures));
  if (slo) {
    json.Key("requests_good").Number(figures.good);
    json.Key("goodput_requests_per_second").Real(PerSecond(figures.good, figures));
    json.Key("goodput_output_tokens_per_second").Real(PerSecond(figures.good_output_tokens, figures));
  }
  AppendSummary("ttft_ms", figures.ttft_ms, json);
  AppendSummary("itl_ms", figures.itl_ms, json);
  AppendSummary("tpot_ms", figures.tpot_ms, json);
  AppendSummary("e2e_ms", figures.e2e_ms, json);
  AppendSummary("refusal_ms", figures.refusal_ms, json);
  AppendSummary("retry_after_ms", figures.retry_after_ms, json);
  AppendSummary("lateness_ms", figures.lateness_ms, json);
  json.Key("generator_cores").Real(figures.generator_cores).Key("errors").BeginArray();
  for (const auto& [error, count] : figures.error_counts) {
    json.BeginObject().Key("error").Text(error).Key("count").Number(count).End();
  }
  return json.End().End().text();
}

}  // namespace conclave
