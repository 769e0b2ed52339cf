#include "moe/daemon/address_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace conclave {

absl::Status WriteAddressFile(const std::string& path, const ProcessAddresses& addresses) {
  // Names and addresses hold no character that JSON would escape.
  const auto optional = [](const char* key, const std::string& address) {
    return address.empty() ? "" : absl::StrCat(", \"", key, "\": \"", address, "\"");
  };
  const std::string text = absl::StrCat("{\"name\": \"", addresses.name, "\", \"pid\": ", addresses.pid,
                                        ", \"grpc\": \"", addresses.grpc, "\"", optional("metrics", addresses.metrics),
                                        optional("http", addresses.http), optional("health", addresses.health), "}\n");
  const std::string unfinished = absl::StrCat(path, ".", addresses.pid, ".tmp");
  errno = 0;
  std::ofstream file(unfinished, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file.good() || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    const absl::Status status =
        absl::UnavailableError(absl::StrCat("cannot write the address file ", path, ": ", strerror(errno)));
    std::remove(unfinished.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace conclave
