#include "moe/daemon/certificate_watch.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(500);

// When the first certificate of a PEM file expires; nothing where it holds none.
std::optional<absl::Time> ExpiryOf(const std::string& path) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> file(BIO_new_file(path.c_str(), "r"), &BIO_free);
  if (file == nullptr) return std::nullopt;
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr), &X509_free);
  std::tm time{};
  if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &time) != 1) return std::nullopt;
  return absl::FromTM(time, absl::UTCTimeZone());
}

std::vector<std::string> PathsOf(const CertificateFiles& files) {
  std::vector<std::string> paths;
  for (const std::string& path : files.others) {
    if (!path.empty()) paths.push_back(path);
  }
  if (!files.certificate.empty()) paths.push_back(files.certificate);
  return paths;
}

}  // namespace

CertificateWatch::CertificateWatch(const CertificateFiles& files, Metrics* metrics)
    : files_(files), watch_(PathsOf(files)) {
  if (metrics == nullptr) return;
  const auto counter = [&](const std::string& result) {
    return metrics->AddCounter("conclave_tls_certificate_reloads_total",
                               "Changed certificate files, by where they are used and whether they could be.",
                               {{"use", files.use}, {"result", result}});
  };
  taken_ = counter("taken");
  refused_ = counter("refused");
  if (files.certificate.empty()) return;
  expiry_ = metrics->AddGauge("conclave_tls_certificate_expiry_seconds",
                              "When the certificate in use expires, in seconds since 1970.", {{"use", files.use}});
}

void CertificateWatch::TellExpiry() {
  const std::optional<absl::Time> expiry = ExpiryOf(files_.certificate);
  if (expiry_ != nullptr && expiry.has_value()) expiry_->Set(absl::ToDoubleSeconds(*expiry - absl::UnixEpoch()));
}

void CertificateWatch::Start(std::function<absl::Status()> take) {
  take_ = std::move(take);
  TellExpiry();
  watch_.Start(kPoll, /*settled=*/true, [this] {
    const absl::Status status = take_();
    Counter* const counter = status.ok() ? taken_ : refused_;
    if (counter != nullptr) counter->Add(1);
    if (!status.ok()) {
      return LogError(absl::StrCat("TLS (", files_.use, "): the changed files are not used, what they held before is: ",
                                   status.message()));
    }
    TellExpiry();
    LogInfo(absl::StrCat("TLS (", files_.use, "): the changed files are in use for new connections"));
  });
}

}  // namespace conclave
