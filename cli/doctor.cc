// `conclave doctor`: what this machine offers, and how to fix what it lacks.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/doctor_checks.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

const char* Name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kAdvice:
      return "advice";
    case Verdict::kBlocked:
      return "blocked";
  }
  return "";
}

void PrintJson(const std::vector<Finding>& findings) {
  JsonWriter json;
  json.BeginObject().Key("checks").BeginArray();
  for (const Finding& finding : findings) {
    json.BeginObject().Key("name").Text(finding.name).Key("status").Text(Name(finding.verdict));
    json.Key("value").Text(finding.value).Key("fix").Text(finding.fix).End();
  }
  json.End().End();
  std::cout << json.text() << "\n";
}

void PrintText(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    std::cout << absl::StrFormat("%-8s %-12s %s\n", Name(finding.verdict), finding.name, finding.value);
    if (!finding.fix.empty()) std::cout << absl::StrFormat("%-21s fix: %s\n", "", finding.fix);
  }
}

class DoctorCommand final : public Command {
 public:
  std::string name() const override { return "doctor"; }
  std::string summary() const override { return "check this machine, with a fix for what it lacks"; }
  void Declare(CommandFlags& flags) override { flags.AddOutput(&output_); }

  absl::Status Run(const CommandContext& context) override {
    const std::vector<Finding> findings = ExamineMachine(context.binary_directory);
    if (output_ == "json") {
      PrintJson(findings);
    } else {
      PrintText(findings);
    }
    for (const Finding& finding : findings) {
      if (finding.verdict == Verdict::kBlocked) {
        return absl::FailedPreconditionError(absl::StrCat(finding.name, ": ", finding.value, "; ", finding.fix));
      }
    }
    return absl::OkStatus();
  }

 private:
  std::string output_ = "text";
};

}  // namespace

std::unique_ptr<Command> NewDoctorCommand() { return std::make_unique<DoctorCommand>(); }

}  // namespace conclave
