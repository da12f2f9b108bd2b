// @ts-check
/** The API reference: Swagger UI over our own description. */

const element = /** @type {HTMLElement} */ (document.getElementById("swagger"));
// @ts-ignore: a global of the script before this one
window.SwaggerUIBundle({ url: element.dataset.schema, domNode: element, deepLinking: true });
