#include "moe/daemon/tls.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_certificate_verifier.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/certificate_watch.h"
#include "moe/daemon/listen_address.h"
#include "moe/daemon/memory_file.h"

namespace conclave {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

// How often gRPC looks at what it is given.
constexpr unsigned kRefreshSeconds = 1;

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

absl::Status Bad(absl::string_view flag, const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", path, ": ", what));
}

absl::StatusOr<std::string> ReadPem(absl::string_view flag, const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().empty()) return Bad(flag, path, errno != 0 ? strerror(errno) : "is empty");
  return text.str();
}

Bio BioOf(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free);
}

absl::StatusOr<Certificate> ReadCertificate(absl::string_view flag, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadPem(flag, path));
  Certificate certificate(PEM_read_bio_X509(BioOf(text).get(), nullptr, nullptr, nullptr), &X509_free);
  if (certificate == nullptr) return Bad(flag, path, "holds no certificate in PEM");
  return certificate;
}

absl::Status CheckPair(absl::string_view certificate_flag, const std::string& certificate_path,
                       absl::string_view key_flag, const std::string& key_path) {
  if (certificate_path.empty() && key_path.empty()) return absl::OkStatus();
  if (certificate_path.empty() || key_path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--", certificate_flag, " and --", key_flag, ": give both"));
  }
  ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate(certificate_flag, certificate_path));
  ASSIGN_OR_RETURN(const std::string text, ReadPem(key_flag, key_path));
  // An encrypted key would make OpenSSL ask on the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  const Key key(PEM_read_bio_PrivateKey(BioOf(text).get(), nullptr, no_password, nullptr), &EVP_PKEY_free);
  if (key == nullptr) return Bad(key_flag, key_path, "holds no private key in PEM, or one with a password");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Bad(key_flag, key_path, absl::StrCat("is not the key of the certificate in ", certificate_path));
  }
  return absl::OkStatus();
}

// The files of one port or channel, as gRPC may see them. gRPC follows files by itself, but takes what does not fit,
// and then refuses every connection: so it follows copies, which hold what has passed the check. A certificate and its
// key share one copy: they change in one step.
class CheckedFiles {
 public:
  CheckedFiles(const CertificateFiles& files, std::string key, std::string roots, Metrics* metrics)
      : certificate_(files.certificate), key_(std::move(key)), roots_(std::move(roots)), watch_(files, metrics) {}

  // `check` looks at all files. To be called once.
  absl::Status Start(std::function<absl::Status()> check) {
    const auto take = [this, check = std::move(check)]() -> absl::Status {
      RETURN_IF_ERROR(check());
      return Copy();
    };
    RETURN_IF_ERROR(take());
    watch_.Start(take);
    return absl::OkStatus();
  }
  std::shared_ptr<FileWatcherCertificateProvider> Provider() const {
    const std::string identity = certificate_.empty() ? "" : identity_copy_.path();
    return std::make_shared<FileWatcherCertificateProvider>(identity, identity,
                                                            roots_.empty() ? "" : roots_copy_.path(), kRefreshSeconds);
  }

 private:
  absl::Status Copy() {
    if (!certificate_.empty()) {
      ASSIGN_OR_RETURN(const std::string certificate, ReadPem("tls-cert", certificate_));
      ASSIGN_OR_RETURN(const std::string key, ReadPem("tls-key", key_));
      RETURN_IF_ERROR(identity_copy_.Set(absl::StrCat(certificate, "\n", key)));
    }
    if (roots_.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::string roots, ReadPem("tls-ca", roots_));
    return roots_copy_.Set(roots);
  }

  const std::string certificate_, key_, roots_;
  MemoryFile identity_copy_, roots_copy_;
  CertificateWatch watch_;  // last: its thread uses the others
};

// Credentials that keep their files followed.
template <typename Credentials>
std::shared_ptr<Credentials> With(std::shared_ptr<CheckedFiles> files, std::shared_ptr<Credentials> credentials) {
  Credentials* const pointer = credentials.get();
  auto both = std::make_shared<std::pair<std::shared_ptr<CheckedFiles>, std::shared_ptr<Credentials>>>(
      std::move(files), std::move(credentials));
  return std::shared_ptr<Credentials>(std::move(both), pointer);
}

// Whether a name of a certificate stands for `name`: the same letters, or "*." for one label (RFC 6125, 6.4).
bool Covers(absl::string_view pattern, absl::string_view name) {
  if (absl::ConsumePrefix(&pattern, "*.")) {
    const size_t dot = name.find('.');
    return dot != absl::string_view::npos && dot > 0 && absl::EqualsIgnoreCase(pattern, name.substr(dot + 1));
  }
  return absl::EqualsIgnoreCase(pattern, name);
}

// Takes certificates of one name, by whatever address their server was called. Their chain has been checked before.
class NameVerifier final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit NameVerifier(std::string name) : name_(std::move(name)) {}
  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* sync_status) override {
    for (const grpc::string_ref& pattern : request->dns_names()) {
      if (!Covers({pattern.data(), pattern.size()}, name_)) continue;
      *sync_status = grpc::Status::OK;
      return true;
    }
    *sync_status = grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                                absl::StrCat("the server's certificate does not name ", name_));
    return true;
  }
  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::string name_;
};

bool IsLoopback(const std::string& host) {
  in_addr four{};
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
  in6_addr six{};
  if (inet_pton(AF_INET6, host.c_str(), &six) == 1) return IN6_IS_ADDR_LOOPBACK(&six);
  return host == "localhost";
}

}  // namespace

void TlsServerOptions::AddTo(Flags& flags) {
  flags.Add("tls-cert", &certificate, "PEM file with this server's certificate and chain; empty: plaintext");
  flags.Add("tls-key", &key, "PEM file with the certificate's private key");
  flags.Add("tls-client-ca", &client_ca, "PEM file with roots; clients must show a certificate of theirs");
  flags.Add("allow-insecure", &allow_insecure, "let ports without TLS be reached from other machines");
}

void TlsClientOptions::AddTo(Flags& flags) {
  flags.Add("tls-ca", &ca, "PEM file with the roots of the services that this one calls; empty: plaintext");
  flags.Add("tls-client-cert", &certificate, "PEM file with the certificate to show to them");
  flags.Add("tls-client-key", &key, "PEM file with its private key");
  flags.Add("tls-server-name", &server_name,
            "name that their certificates must bear, where they are called by addresses of dns:/// or file:///; empty: "
            "the host of each one's address");
}

absl::Status CheckTls(const TlsServerOptions& options) {
  RETURN_IF_ERROR(CheckPair("tls-cert", options.certificate, "tls-key", options.key));
  if (options.client_ca.empty()) return absl::OkStatus();
  if (!options.enabled()) return absl::InvalidArgumentError("--tls-client-ca: needs --tls-cert and --tls-key");
  return ReadCertificate("tls-client-ca", options.client_ca).status();
}

absl::Status CheckTls(const TlsClientOptions& options) {
  RETURN_IF_ERROR(CheckPair("tls-client-cert", options.certificate, "tls-client-key", options.key));
  if (options.enabled()) return ReadCertificate("tls-ca", options.ca).status();
  if (!options.certificate.empty()) return absl::InvalidArgumentError("--tls-client-cert: needs --tls-ca");
  if (!options.server_name.empty()) return absl::InvalidArgumentError("--tls-server-name: needs --tls-ca");
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> NewServerCredentials(const TlsServerOptions& options,
                                                                              Metrics* metrics) {
  RETURN_IF_ERROR(CheckTls(options));
  if (!options.enabled()) return grpc::InsecureServerCredentials();
  const CertificateFiles watched{"grpc", options.certificate, {options.key, options.client_ca}};
  const auto files = std::make_shared<CheckedFiles>(watched, options.key, options.client_ca, metrics);
  RETURN_IF_ERROR(files->Start([options] { return CheckTls(options); }));
  grpc::experimental::TlsServerCredentialsOptions tls(files->Provider());
  tls.watch_identity_key_cert_pairs();
  if (!options.client_ca.empty()) {
    tls.watch_root_certs();
    tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return With(files, grpc::experimental::TlsServerCredentials(tls));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> NewChannelCredentials(const TlsClientOptions& options,
                                                                                Metrics* metrics) {
  RETURN_IF_ERROR(CheckTls(options));
  if (!options.enabled()) return grpc::InsecureChannelCredentials();
  const CertificateFiles watched{"client", options.certificate, {options.key, options.ca}};
  const auto files = std::make_shared<CheckedFiles>(watched, options.key, options.ca, metrics);
  RETURN_IF_ERROR(files->Start([options] { return CheckTls(options); }));
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(files->Provider());
  tls.watch_root_certs();
  if (!options.certificate.empty()) tls.watch_identity_key_cert_pairs();
  if (!options.server_name.empty()) {
    tls.set_certificate_verifier(
        grpc::experimental::ExternalCertificateVerifier::Create<NameVerifier>(options.server_name));
    tls.set_check_call_host(false);  // calls name the address, which the certificate need not
  }
  return With(files, grpc::experimental::TlsCredentials(tls));
}

absl::Status CheckPlaintextAddress(absl::string_view flag, absl::string_view address, bool allow_insecure) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", parsed.status().message()));
  if (allow_insecure || IsLoopback(parsed->host)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, ": other machines may reach ", address,
                   ", and it would speak plaintext: give --tls-cert and --tls-key where this port takes them, or "
                   "--allow-insecure where something else protects the traffic"));
}

}  // namespace conclave
